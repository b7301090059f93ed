"""What containers may not do: containerd's seccomp profile, one of a user's own, device rules."""

import json
from pathlib import Path

import pytest
from lab.trial import Trial

pytestmark = pytest.mark.containerd


def test_the_default_profile_and_device_rules_confine(trial: Trial) -> None:
    script = (
        "grep ^Seccomp: /proc/self/status; unshare -U true;"
        "mknod /dev/odd c 240 5; cat /dev/odd; echo x > /dev/null; echo end"
    )
    result = trial.hear("sh", "-c", script, options=("--rm", "--seccomp"))
    assert result.stdout.split() == ["Seccomp:", "2", "end"]
    refused = result.stderr.splitlines()
    # An open that the rules let pass would find no such device.
    assert len(refused) == 2
    assert refused[0].startswith("unshare: unshare(0x10000000)")
    assert refused[1].startswith("cat: can't open '/dev/odd'")
    assert all(line.endswith("Operation not permitted") for line in refused)


def test_a_profile_of_the_users_own_confines(trial: Trial, tmp_path: Path) -> None:
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [
            {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 99},
            {"names": ["sethostname"], "action": "SCMP_ACT_KILL_PROCESS"},
        ],
    }
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(profile))
    script = "mkdir /tmp/x; hostname x; echo $?; unshare -U true && echo free"
    options = ("--rm", "--seccomp", "--seccomp-profile", str(path))
    result = trial.hear("sh", "-c", script, options=options)
    assert "Cannot assign requested address" in result.stderr
    assert result.stdout.split() == ["159", "free"]  # 128 and SIGSYS


def test_containerd_reads_what_the_runtime_can_do(trial: Trial) -> None:
    if trial.daemon.release.line == "1.6":
        pytest.skip("containerd asks runtimes since 2.0")
    argv = ["plugins", "inspect-runtime", "--runtime", trial.runtime.shim]
    said = json.loads(trial.daemon.ctr(*argv).stdout)
    features = said["Features"]
    assert "SCMP_ACT_ERRNO" in features["linux"]["seccomp"]["actions"]
    assert "rbind" in features["mountOptions"]
    assert features["linux"]["cgroup"]["v2"] is True
