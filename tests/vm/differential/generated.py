"""Specifications put together at random, the same ones in every run (hypothesis)."""

from typing import Any, Final

from cases import CAPABILITIES, CGROUP_MOUNT, Case, bind, mount, specification
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

COUNT: Final = 20

_NAMES: Final = ("CHOWN", "DAC_OVERRIDE", "KILL", "SETGID", "SETUID", "NET_RAW", "MKNOD", "FOWNER")
_SETS: Final = ("bounding", "permitted", "effective", "inheritable", "ambient")
_LIMITS: Final = ("CORE", "CPU", "FSIZE", "NOFILE", "SIGPENDING", "MSGQUEUE", "NPROC", "DATA")
_FLAGS: Final = ("nosuid", "nodev", "noexec", "ro", "noatime", "rw", "exec", "suid", "dev")
_IDS: Final = st.integers(0, 2**32 - 2)


@st.composite
def _capabilities(draw: st.DrawFn) -> dict[str, list[str]]:
    """Draw five sets, each within the one that the kernel bounds it by."""
    sets: dict[str, list[str]] = {}
    above: list[str] = [f"CAP_{name}" for name in _NAMES]
    assert set(above) <= set(CAPABILITIES)
    for name in _SETS:
        within = above if name in ("bounding", "permitted", "effective") else sets["permitted"]
        within = sets["inheritable"] if name == "ambient" else within
        if name == "effective":
            within = sets["permitted"]
        sets[name] = [each for each in within if draw(st.booleans())]
        above = sets[name] if name == "bounding" else above
    return sets


@st.composite
def _process(draw: st.DrawFn) -> dict[str, Any]:
    kinds = draw(st.lists(st.sampled_from(_LIMITS), unique=True, max_size=4))
    soft = {kind: draw(st.integers(64, 1 << 12)) << (20 if kind == "DATA" else 0) for kind in kinds}
    text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
    letters = st.text("ABC_xyz019", min_size=1, max_size=6)
    variables = draw(st.dictionaries(letters, text, max_size=4))
    return {
        "user": {
            "uid": draw(st.sampled_from((0, 0, 1000)) | _IDS),
            "gid": draw(st.sampled_from((0, 1000)) | _IDS),
            "additionalGids": draw(st.lists(_IDS, max_size=5)),
        },
        "capabilities": draw(_capabilities()),
        "rlimits": [
            {
                "type": f"RLIMIT_{kind}",
                "soft": value,
                "hard": value * draw(st.sampled_from((1, 2))),
            }
            for kind, value in soft.items()
        ],
        "noNewPrivileges": draw(st.booleans()),
        "oomScoreAdj": draw(st.integers(0, 1000)),
        "cwd": draw(st.sampled_from(("/", "/tmp", "/etc/../usr", "/made/deep", "/run/made"))),
        "env": ["PATH=/bin", *(f"{name}={value}" for name, value in variables.items())],
    }


@st.composite
def _mount(draw: st.DrawFn) -> dict[str, Any]:
    place = draw(st.sampled_from(("/mnt", "/srv/new/place", "/opt", "/home")))
    flags = draw(st.lists(st.sampled_from(_FLAGS), max_size=4))
    if draw(st.booleans()):
        source = draw(st.sampled_from(("tree", "secret")))
        return bind(source, place, draw(st.sampled_from(("bind", "rbind"))), *flags)
    size = draw(st.integers(1, 64))
    mode = draw(st.sampled_from(("700", "1777", "0755", "2750")))
    return mount(place, "tmpfs", "tmpfs", *flags, f"size={size}m", f"mode={mode}")


@st.composite
def _specification(draw: st.DrawFn) -> dict[str, Any]:
    paths = ("/etc", "/usr/bin", "/srv", "/proc/sys", "/etc/passwd", "/nowhere")
    some = st.lists(st.sampled_from(paths), unique=True, max_size=3)
    masked = draw(
        st.lists(st.sampled_from(("/srv", "/home", "/etc/group", "/sys/power")), unique=True)
    )
    resources: dict[str, Any] = {}
    if draw(st.booleans()):
        resources["memory"] = {"limit": draw(st.integers(32, 512)) << 20}
    if draw(st.booleans()):
        resources["pids"] = {"limit": draw(st.integers(10, 10000))}
    if draw(st.booleans()):
        resources["cpu"] = {
            "shares": draw(st.integers(2, 10000)),
            "quota": draw(st.integers(10, 200)) * 1000,
            "period": draw(st.sampled_from((50000, 100000))),
        }
    mounts = draw(st.lists(_mount(), max_size=3, unique_by=lambda each: each["destination"]))
    words = [f"write:{each['destination']}" for each in mounts]
    words += [f"path:{path}" for path in masked]
    return specification(
        *words,
        process=(fields := draw(_process()))
        | {"args": specification(*words)["process"]["args"], "rlimits": fields["rlimits"]},
        linux={
            "maskedPaths": masked,
            "readonlyPaths": draw(some),
            "resources": resources,
        },
        mounts=[*mounts, CGROUP_MOUNT],
        root={"path": "rootfs", "readonly": draw(st.booleans())},
    )


def draw(count: int = COUNT) -> list[Case]:
    """Return `count` specifications, or a few less: hypothesis may repeat itself."""
    drawn: list[dict[str, Any]] = []

    @settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(_specification())
    def collect(spec: dict[str, Any]) -> None:
        if spec not in drawn:
            drawn.append(spec)

    collect()
    return [Case(f"generated-{number}", spec) for number, spec in enumerate(drawn)]
