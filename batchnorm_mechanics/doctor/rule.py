"""What a rule is: what it looks at, what explains it, and what repair can do about it."""

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from batchnorm_mechanics.doctor.findings import Finding, Severity
from batchnorm_mechanics.doctor.gaps import Gap, gaps_of

# Rules are listed and told without TensorFlow, which takes seconds to import.
if TYPE_CHECKING:
    from batchnorm_mechanics.doctor.measuring import Measured, NormMeasured
    from batchnorm_mechanics.doctor.past import Past
    from batchnorm_mechanics.doctor.sample import Noisy
    from batchnorm_mechanics.models.model_copies import Edits
    from batchnorm_mechanics.models.norms import Call, Norm

Channels = tuple[int, ...]
Findings = Iterator[Finding]

_NEEDS_DATA = "it needs data"
_FROZEN = (
    "it is frozen, and stays as it is unless `only` asks for this code; "
    "`recalibrate(..., include_frozen=True)` does it, too"
)


@dataclass(frozen=True, eq=False)
class Case:
    """What rules look at: a model, what is seen of its training, and what data say.

    Attributes:
        model: any Keras model.
        norms: its batch norm layers.
        measured: what data say; None without data.
    """

    model: Any
    norms: tuple["Norm", ...]
    measured: "Measured | None" = None

    @cached_property
    def past(self) -> "Past":
        """What can be seen of the model's training."""
        from batchnorm_mechanics.doctor.past import past_of

        return past_of(self.model, self.norms)

    @cached_property
    def gaps(self) -> Mapping[str, Gap]:
        """By name, how far the statistics of a layer are from those of the data.

        In the order in which the model calls the layers; of those that data say something of.
        """
        return {} if self.measured is None else gaps_of(self.norms, self.measured)

    @cached_property
    def _of_containers(self) -> "list[list[Call]]":
        from batchnorm_mechanics.models.norms import calls_in
        from batchnorm_mechanics.models.wiring import held_by

        by_layer = calls_in(self.model).values()
        # What two graphs have in common is called once.
        once = [list({call.node: call for call in calls}.values()) for calls in by_layer]
        return [calls for calls in once if held_by(calls[0].node.operation)]

    def around(self, norm: "Norm") -> "list[list[Call]]":
        """Return the calls of each layer that holds a batch norm layer."""
        from batchnorm_mechanics.models.wiring import holds

        of_all = self._of_containers
        return [calls for calls in of_all if holds(calls[0].node.operation, norm.layer)]

    @cached_property
    def noisy(self) -> "Mapping[str, Noisy]":
        """By name, what a layer gets in training behind dropout or noise."""
        return {} if self.measured is None else self.measured.again.noisy()

    def heard(self) -> Iterator[tuple["Norm", "NormMeasured", Gap]]:
        """Yield the layers that data say something of, in the order of their calls."""
        if self.measured is not None:
            by_name = {norm.name: norm for norm in self.norms}
            for name, found in self.measured.norms.items():
                yield by_name[name], found, self.gaps[name]

    def told_by_training(self, norm: "Norm", severity: Severity) -> tuple[Severity, dict[str, Any]]:
        """Return how bad it is that training should have left wrong statistics, and evidence.

        Nothing in a file says that statistics were estimated anew since: where they suit the data,
        it is a note.
        """
        gap = self.gaps.get(norm.name)
        return (severity, {}) if gap is None or not gap.suits else ("note", {"gap": gap.layer})


class Stage(IntEnum):
    """When something is done: later stages follow from what earlier ones leave."""

    GRAPH = 0  # makes new layers
    WEIGHTS = 1
    SETTINGS = 2
    LAYER_BEFORE = 3
    STATISTICS = 4


class NewValues(NamedTuple):
    """What a layer gets: arrays by the names of its weights, and settings by theirs."""

    name: str
    layer: Any
    values: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Action:
    """One kind of thing that repair does to a layer.

    Attributes:
        name: in a word or two joined by a hyphen.
        words: what it does, for a reader.
        stage: when it is done.
        new_values: what it changes in the layer, or in that before it; None where it does not.
        edits: which calls of the model's graph it has built anew in another way, or why it cannot;
            None likewise.
        obstacle: tells why new values cannot be put into a layer of a model, or None.
        heals: whether it changes what the layer gives.
    """

    name: str
    words: str
    stage: Stage
    new_values: "Callable[[Norm], Iterable[NewValues]] | None" = None
    edits: "Callable[[Any, Norm], Edits | str] | None" = None
    obstacle: "Callable[[Any, Norm], str | None]" = lambda _model, _norm: None
    heals: bool = True


RE_ESTIMATE = Action(name="re-estimate", words="re-estimate the statistics", stage=Stage.STATISTICS)


@dataclass(frozen=True)
class Step:
    """One thing to do to one layer.

    Attributes:
        how: what.
        layer: path of the layer.
        channels: which channels; none means the layer as a whole.
        findings: keys of the findings that call for it.
    """

    how: Action
    layer: str
    channels: Channels
    findings: tuple[str, ...]

    @property
    def action(self) -> str:
        """The name of what is done."""
        return self.how.name

    def __str__(self) -> str:
        return f"{self.layer}: {self.how.words} ({', '.join(self.findings)})"


# What is done about a finding, or why nothing.
Answer = list[Step] | str


@dataclass(frozen=True)
class Circumstances:
    """What a decision depends on besides the findings.

    Attributes:
        norms: the batch norm layers of the model, by name in its order.
        asked: codes that were asked for; None where none was named, which means all, but no notes.
        has_data: whether there are data.
        has_labels: whether they say how good the model is.
        obstacle: tells why an action cannot be taken at a layer, or None.
        done: names of actions already taken, each with the layer's name and channels: doing them
            again helps nothing.
    """

    norms: "Mapping[str, Norm]"
    asked: frozenset[str] | None
    has_data: bool
    obstacle: "Callable[[Norm, Action], str | None]"
    done: Set[tuple[str, str, Channels]] = frozenset()
    has_labels: bool = False

    def asks_for(self, finding: Finding) -> bool:
        """Whether the code of a finding was asked for by name."""
        return self.asked is not None and finding.code in self.asked

    def re_estimated(self, finding: Finding, norm: "Norm", channels: Channels = ()) -> Answer:
        """Return the step that estimates a layer, or some channels, anew; or why it is not taken.

        A frozen layer is left alone unless it was asked for.
        """
        if not self.has_data:
            return _NEEDS_DATA
        if not norm.layer.trainable and not self.asks_for(finding):
            return _FROZEN
        return [Step(RE_ESTIMATE, norm.name, channels, (finding.key,))]


class Rule:
    """What a code stands for; each rule is a subclass, in a module of its own in `rules`.

    Attributes:
        code: such as "BN101", by which the module's name begins.
        name: in a few words joined by hyphens; the rest of that.
        severity: of its findings where the rule does not know better.
        needs_data: whether weights and graph alone cannot tell.
        explains: codes of findings that are explained by one of this rule at the same layer or of
            the model as a whole.
        may_explain: likewise, where nothing else does.
        explains_everywhere: likewise, whatever their layers.
        explains_later: likewise, at layers that the model calls after this one's.
        hides: codes of findings that mean nothing at a layer where this one stands.
        is_only_unexplained: whether a finding is left out where another one explains it.
        parts_modes: whether it makes training mode and inference differ, so that it is no louder
            than data show their outputs to do.
        keeps_effects: whether what a finding explains is left as it is while it is not repaired.
        spoils_outputs: whether outputs are no numbers, so that none of them can get worse.
        judges_whole_training: whether it means nothing before training ends.
        is_told_by_range: whether data in another range than those of training bring it about.
        only_if_asked: words before the command that repairs it, where nothing is done unasked.
        refusal: why repair does nothing about it, if it never does.
        actions: what repair does about it, where nothing stands in the way.
        estimates: what it estimates anew after that: the whole "layer", the "channels" that a
            finding names, or nothing.
    """

    code: str
    name: str
    severity: Severity
    needs_data: bool = False
    explains: tuple[str, ...] = ()
    may_explain: tuple[str, ...] = ()
    explains_everywhere: tuple[str, ...] = ()
    explains_later: tuple[str, ...] = ()
    hides: tuple[str, ...] = ()
    is_only_unexplained: bool = False
    parts_modes: bool = False
    keeps_effects: bool = False
    spoils_outputs: bool = False
    judges_whole_training: bool = False
    is_told_by_range: bool = False
    only_if_asked: str | None = None
    refusal: str | None = None
    actions: tuple[Action, ...] = ()
    estimates: Literal["layer", "channels"] | None = None

    def __init_subclass__(cls) -> None:
        """Name a rule as its module is named, such as `bn105_suspicious_momentum`."""
        code, _, name = cls.__module__.rpartition(".")[2].partition("_")
        cls.code, cls.name = code.upper(), name.replace("_", "-")

    @property
    def story(self) -> str:
        """The whole story in Markdown: symptom, cause, threshold, remedy, a small example."""
        module = sys.modules[type(self).__module__].__file__ or ""
        return Path(module).with_suffix(".md").read_text(encoding="utf-8")

    def check(self, case: Case) -> Findings:
        """Return what is found; roots are not yet named."""
        del case
        yield from ()

    def check_last(self, case: Case, found: Sequence[Finding]) -> Findings:
        """Return what is found beside what all rules have found, with their roots."""
        del case, found
        yield from ()

    def explained_by(self, finding: Finding) -> Iterable[str]:
        """Return by which of their attributes other rules may explain a finding, in that order."""
        del finding
        return "explains", "explains_everywhere", "may_explain", "explains_later"

    def severity_under(self, finding: Finding, root: Finding) -> Severity:
        """Return the severity of a finding of this rule that another one explains."""
        del root
        return finding.severity

    def steps(self, finding: Finding, norm: "Norm", circumstances: Circumstances) -> Answer:
        """Return what repair does about a finding at a layer, or why nothing."""
        reasons = (circumstances.obstacle(norm, action) for action in self.actions)
        if (reason := next(filter(None, reasons), None)) is not None:
            return reason
        key = (finding.key,)
        steps = [Step(action, finding.layer, finding.channels, key) for action in self.actions]
        if self.estimates is None:
            return steps
        channels = finding.channels if self.estimates == "channels" else ()
        estimated = circumstances.re_estimated(finding, norm, channels)
        return estimated if isinstance(estimated, str) else [*steps, *estimated]

    def finding(
        self,
        layer: str,
        *,
        cause: str,
        remedy: str,
        channels: Any = (),
        severity: Severity | None = None,
        root: str | None = None,
        **evidence: Any,
    ) -> Finding:
        """Return a finding of this rule.

        Args:
            layer: path of the layer, "" for the model as a whole.
            cause: in one sentence.
            remedy: in one sentence.
            channels: numbers, or a boolean vector that is true at them.
            severity: where the rule's own does not hold.
            root: key of the finding that explains this one.
            **evidence: numbers or words; a number that is not finite becomes a word, and what is
                None is left out.

        Example:
            >>> from batchnorm_mechanics.doctor.rules import RULES
            >>> negative = np.array([0, 1]) < 0
            >>> made = RULES["BN102"].finding("bn", cause="...", remedy="...", channels=negative)
            >>> made.name, made.severity, made.channels
            ('negative-variance', 'error', ())
            >>> RULES["BN102"].finding("bn", cause="...", remedy="...", lowest=-math.inf).evidence
            {'lowest': '-inf'}
        """
        channels = np.asarray(channels)
        if channels.dtype == bool:
            channels = np.flatnonzero(channels)
        return Finding(
            code=self.code,
            name=self.name,
            severity=severity or self.severity,
            layer=layer,
            channels=tuple(int(channel) for channel in channels),
            evidence={name: _plain(of) for name, of in evidence.items() if of is not None},
            cause=cause,
            remedy=remedy,
            root=root,
        )


def _plain(value: Any) -> float | int | str:
    """Return a value that JSON can hold."""
    if isinstance(value, str):
        return value
    if isinstance(value, int | np.integer):
        return int(value)
    value = float(value)
    return value if math.isfinite(value) else str(value)
