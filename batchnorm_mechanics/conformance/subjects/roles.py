"""What the parameters, attributes and keys of other people's batch normalization are called.

One table for all forms: a function's parameters, a constructor's, the keys of a dictionary of
settings, the attributes and variables of an object. Names settle what they can; where they leave
something open, `trial` asks the thing itself.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum


class Role(StrEnum):
    """What a name may stand for."""

    X = "x"
    DY = "dy"
    GAMMA = "gamma"
    BETA = "beta"
    MEAN = "moving mean"
    VARIANCE = "moving variance"
    EPSILON = "epsilon"
    MOMENTUM = "momentum"
    TRAINING = "training"
    INFERENCE = "inference"
    AXIS = "axis"
    FEATURES = "number of channels"
    RANK = "rank of the input"
    SWITCH = "whether to have gamma or beta"
    RECORD = "dictionary"


# What `Setting` calls a parameter or a statistic.
FIELDS: Mapping[Role, str] = {
    Role.GAMMA: "gamma",
    Role.BETA: "beta",
    Role.MEAN: "moving_mean",
    Role.VARIANCE: "moving_variance",
}

_MOVING = (
    "(moving|running|mov|run|r|m|pop|population|global|ema|infer|inference|test|old|prev|tracked|"
    "accumulated|average|avg|est|estimated)?"
)
# In lower case and without underscores; the first role that takes a name has it.
_NAMES: Mapping[Role, str] = {
    Role.X: r"x|xs|inputs?|inp|xin|batch|data|tensor|activations?|z|h|hidden|a|values?|arr(ay)?"
    r"|images?|img|inputbatch|minibatch|u|xbatch|inputdata|inputtensor",
    Role.DY: r"(d|grad|gradient)(y|out|output|outputs|z|l|loss|prev|x|next|upstream)?"
    r"|upstream(grad)?|(out|output|y)grad(ient)?|delta|g|dldy|dh|cotangent",
    Role.GAMMA: r"gammas?|g|scales?|weights?|w|gain|bngain|bngamma|bnscale|bnweight",
    Role.BETA: r"betas?|b|bias(es)?|offsets?|shift|center|bnbias|bnbeta|bnshift",
    Role.MEAN: rf"{_MOVING}(mean|means|mu|mus|m)(ema|avg|average|running|moving)?|mm|movingaverage",
    Role.VARIANCE: rf"{_MOVING}(variance|variances|vars?|sigma2|sigmasq|sigmasquared|sigma|v|s2)"
    r"(ema|avg|average|running|moving)?",
    Role.EPSILON: r"(var|variance|bn|norm)?(eps|epsilon)(value|bn)?|e",
    Role.MOMENTUM: r"(bn|ema)?(momentum|mom|decay|rho|alpha|rate|smoothing)(rate|value|factor|bn)?"
    r"|(ema|movingaverage|moving)decay|(exponential)?(avg|average|averaging)factor",
    Role.TRAINING: r"(is|in)?(train|training)(mode|phase|flag|flg)?|phase(train)?|mode"
    r"|learning(phase)?|use(batch|current|local)(stats|statistics|moments)",
    Role.INFERENCE: r"(is|in)?(test|testing|infer|inference|inferring|eval|evaluate|evaluation"
    r"|evaluating|predict|prediction|predicting|deterministic)(mode|phase|flag|flg)?"
    r"|use(running|moving|global)(average|averages|avg|stats|statistics)",
    Role.AXIS: r"(bn|channel|channels|feature|features|reduction|reduce|norm)?(axis|axes|dim|dims)"
    r"|reductionindices",
    Role.FEATURES: r"(n|num|no|number|numberof|nb|in|input)?(features?|channels?|units?|neurons?"
    r"|hidden|inputs?|outputs?|out|in|size|nodes|filters|planes)(size|dim|dims|units|s)?|c|d|n"
    r"|(input|param|normalized|feature)?(shape|dim|dimension|size)|width|layersize|insize",
    Role.RANK: r"(n|num)(dim|dims)|rank|spatialdims",
    Role.SWITCH: r"(create|use|with|has)(scale|offset|gamma|beta|bias|weight|affine)|affine",
    Role.RECORD: r"(bn|batchnorm|norm|layer|model)?(params?|parameters?|config|cfg|state|stats"
    r"|statistics|cache|variables|vars|options|opts|settings|buffers|hyper(params?)?|dict"
    r"|running)s?",
}
_PATTERNS = {role: re.compile(pattern) for role, pattern in _NAMES.items()}
# Of one letter, and only where nothing longer says it: `m` is a mean beside `v`, else a momentum.
_SHORT: Sequence[tuple[Role, str]] = (
    (Role.MEAN, "m"),
    (Role.VARIANCE, "v"),
    (Role.MOMENTUM, "m"),
)

OF_FUNCTIONS = (
    Role.GAMMA,
    Role.BETA,
    Role.EPSILON,
    Role.TRAINING,
    Role.INFERENCE,
    Role.AXIS,
    Role.VARIANCE,
    Role.MEAN,
    Role.MOMENTUM,
)
# The first is a parameter that may come several times, with other names.
OF_CONSTRUCTORS = (
    Role.SWITCH,
    Role.EPSILON,
    Role.MOMENTUM,
    Role.RANK,
    Role.FEATURES,
    Role.AXIS,
)
SOURCES = (Role.GAMMA, Role.BETA)
STATISTICS = (Role.MEAN, Role.VARIANCE)
OF_VARIABLES = (*SOURCES, *STATISTICS)


def plain(name: str) -> str:
    """Return a name as the table has it: in lower case, without underscores.

    Example:
        >>> plain("_Running_Mean")
        'runningmean'
    """
    return name.lower().replace("_", "")


def stands_for(name: str, role: Role) -> bool:
    """Return whether a name can stand for a role.

    Example:
        >>> stands_for("moving_var", Role.VARIANCE), stands_for("eps", Role.MOMENTUM)
        (True, False)
    """
    return _PATTERNS[role].fullmatch(plain(name)) is not None


def find_roles(names: Iterable[str], among: Sequence[Role]) -> dict[Role, str]:
    """Return which of the names has which role; a name has one role, and a role one name.

    Args:
        names: in their order; of two that fit, the first is taken.
        among: the roles to be found, those that are told more surely first.

    Example:
        >>> find_roles(["X", "g", "b", "m", "v", "eps"], OF_FUNCTIONS)[Role.MEAN]
        'm'
    """
    left = list(names)
    found: dict[Role, str] = {}

    def take(role: Role, fitting: list[str]) -> None:
        if fitting and role in among and role not in found:
            found[role] = fitting[0]
            left.remove(fitting[0])

    single = {short for _, short in _SHORT}
    for role in among:
        take(role, [name for name in left if plain(name) not in single and stands_for(name, role)])
    has_variance = Role.VARIANCE in found or any(plain(name) == "v" for name in left)
    for role, short in _SHORT:
        if role is not Role.MEAN or has_variance:
            take(role, [name for name in left if plain(name) == short])
    return found


def slope_of(name: str) -> Role | None:
    """Return whose gradient a name says that it is, gamma's or beta's; None for neither.

    Example:
        >>> slope_of("dgamma"), slope_of("beta_grad"), slope_of("dx")
        (<Role.GAMMA: 'gamma'>, <Role.BETA: 'beta'>, None)
    """
    short = plain(name)
    for pattern in (r"(?:d|grad|gradient|dl?d)(.+)", r"(.+?)(?:grad|gradient)s?"):
        told = re.fullmatch(pattern, short)
        if told:
            for role in (Role.GAMMA, Role.BETA):
                if stands_for(told[1], role):
                    return role
    return None
