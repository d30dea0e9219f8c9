"""`bnm doctor`: what batch norm does wrong in a model, and why."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics.cli import model_options as options
from batchnorm_mechanics.cli.ending import FAILED

if TYPE_CHECKING:
    from batchnorm_mechanics.doctor.findings import Diagnosis

_DEMO = "demo"


@options.takes_options
def doctor(  # noqa: PLR0913 - each is an option
    model: Annotated[
        str | None,
        typer.Argument(metavar="MODEL", help="A .keras or .h5 file; or the word demo."),
    ] = None,
    *,
    given: options.DataOptions,
    compared: options.LabelOptions,
    select: Annotated[
        list[str] | None,
        typer.Option(metavar="CODES", help="Only these rules: BN101,BN2. Repeatable."),
    ] = None,
    ignore: Annotated[
        list[str] | None, typer.Option(metavar="CODES", help="Not these rules, likewise.")
    ] = None,
    notes: options.Notes = False,
    as_json: options.AsJson = False,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the diagnosis as a page too.")
    ] = None,
    reading: options.ModelOptions,
    explain: Annotated[
        str | None, typer.Option(metavar="CODE", help="Tell the whole story of a rule, and exit.")
    ] = None,
    executor: Annotated[
        str,
        typer.Option(
            "--on", help="Where the data go through the model: 'local', 'ray', 'ray://host:10001'."
        ),
    ] = "local",
    rules: Annotated[bool, typer.Option("--rules", help="List all rules, and exit.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="With demo: keep its models and data there."),
    ] = None,
) -> None:
    """Find what batch norm does wrong in a model: which layers and channels, why, and what to do.

    Looks at the weights and the graph, and with data at what they do to them. Nothing of the model
    changes, and no code from its file runs unless --trust is given.

    \b
    bnm doctor model.keras                       weights and graph alone
    bnm doctor model.keras --data test.npz       with data; labels too if it holds y
    bnm doctor model.keras --custom nets:Block   a class of your own
    bnm doctor --explain BN201                   the whole story of a rule
    bnm doctor demo                              a sick model, its diagnosis and repair

    Exit code: 0 if nothing was found at warning or above, 1 if something was, 2 on bad input or
    if interrupted.
    """  # noqa: D301 - a raw string would hold no backspace, the sign to keep lines as they are
    if explain is not None or rules:
        _tell(explain)
        return
    if model is None:
        raise InputError(
            "doctor: `model` must be a .keras or .h5 file. Received: nothing. "
            "`bnm doctor demo` shows what it does, `bnm doctor --help` how."
        )
    if html is not None:
        options.check_page(html, None if model == _DEMO else model, given.data, caller="doctor")
    if model == _DEMO:
        if given.data is not None or compared.labels is not None:
            raise InputError(
                "doctor: `data` must go with a model. Received: "
                f"data={str(given.data)!r} with the demo, which has its own. Leave it out."
            )
        _demo(out, html, as_json=as_json)
        return
    if out is not None:
        raise InputError(
            f"doctor: `out` must go with the demo. Received: out={str(out)!r}. "
            "`bnm repair` writes a repaired model."
        )
    from batchnorm_mechanics.distribute.executors import executor_of
    from batchnorm_mechanics.doctor.rules import chosen

    # Before anything slow.
    executor_of(executor, caller="doctor")
    chosen(options.codes(select), options.codes(ignore))
    loaded = reading.load(Path(model), caller="doctor", loss=compared.loss)
    from batchnorm_mechanics.doctor.diagnose import diagnose

    read = given.load(loaded, caller="doctor", labels=compared.labels, most=reading.max_size)
    with options.working(f"Examining {model}", caller="doctor", data=given.data):
        diagnosis = diagnose(
            loaded,
            read,
            select=options.codes(select),
            ignore=options.codes(ignore),
            executor=executor,
        )
    command = ["bnm", "repair", model, *([] if given.data else ["--data", "DATA"])]
    command += [word for one in (given, compared, reading) for word in options.words(one)]
    steps = _next_steps(diagnosis, loaded, read, command=command)
    if html is not None:
        _write_page(diagnosis, html, file=model, steps=steps)
    if as_json:
        found = {"file": model, "is_sick": diagnosis.is_sick, **diagnosis.as_json()}
        options.print_json({**found, "next": list(steps), **options.read_as_json(read)})
    else:
        from batchnorm_mechanics._io.terminal import Terminal
        from batchnorm_mechanics.doctor.showing import print_diagnosis

        steps += () if html is None else (f"Page: {html}",)
        console = Terminal(highlight=False)
        print_diagnosis(diagnosis, console, file=model, next_steps=steps, notes=notes)
        options.print_read(read)
    if diagnosis.is_sick:
        raise typer.Exit(FAILED)


def _tell(code: str | None) -> None:
    from batchnorm_mechanics._io.site import where
    from batchnorm_mechanics._io.terminal import Terminal
    from batchnorm_mechanics.doctor.rules import rule_of
    from batchnorm_mechanics.doctor.showing import print_rules, print_story

    console = Terminal(highlight=False)
    if code is None:
        print_rules(console)
    else:
        rule = rule_of(code)
        print_story(rule, console)
        print(f"\nPage: {where(f'rules/{rule.code}')}")


def _next_steps(
    diagnosis: "Diagnosis", model: Any, data: Any, *, command: list[str]
) -> tuple[str, ...]:
    """Return what a reader may do next; `command` repairs, but for the name of the new file."""
    from batchnorm_mechanics.doctor.rules import RULES
    from batchnorm_mechanics.doctor.wording import grouped
    from batchnorm_mechanics.models.data_fit import range_hint

    steps = []
    hint = None
    if data is not None and any(RULES[found.code].is_told_by_range for found in diagnosis.findings):
        hint = range_hint(model, data)
    if hint is not None:
        steps.append(hint)
    if data is None and diagnosis.norms:
        steps.append("Look at data too: --data FILE")
    if not diagnosis.is_sick:
        return tuple(steps)
    first = grouped(diagnosis)[0].code
    steps.append(f"The whole story: bnm doctor --explain {first}")
    on_what_condition = RULES[first].only_if_asked
    if on_what_condition is None:
        steps.append(f"Repair: {shlex.join([*command, '--out', 'FIXED.keras'])}")
    elif hint is None:
        # The model may be right: it is for the reader to say that these data are what it is for.
        adapt = [*command, "--only", first, "--out", "ADAPTED.keras"]
        steps.append(f"{on_what_condition}: {shlex.join(adapt)}")
    return tuple(steps)


def _write_page(
    diagnosis: "Diagnosis", path: Path, *, file: str, steps: tuple[str, ...] = ()
) -> None:
    from batchnorm_mechanics.doctor.showing import page

    options.write_page(path, page(diagnosis, file=file, next_steps=steps), caller="doctor")


def _demo(out: Path | None, html: Path | None, *, as_json: bool) -> None:
    from batchnorm_mechanics._io.terminal import Terminal
    from batchnorm_mechanics._tensorflow import import_tensorflow_quietly

    import_tensorflow_quietly()
    from batchnorm_mechanics.doctor import demo
    from batchnorm_mechanics.doctor.showing import print_demo

    log = Terminal(stderr=True, highlight=False)
    with options.insisting():
        shown = demo.run(log.print, out=out)
    if html is not None:
        _write_page(shown.diagnosis, html, file=demo.NAME)
    if as_json:
        options.print_json(shown.as_json())
    else:
        print_demo(shown, Terminal(highlight=False), out=out, page=html)
