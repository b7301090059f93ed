"""Annotations of ours: one that cannot be followed fails the pod, or the container, by its name."""

import pytest
from lab.cri import CriError
from lab.pod import Container, Pod
from lab.pod_trial import PodTrial

pytestmark = pytest.mark.containerd

PREFIX = "io.katacontainers."
REFUSED = [
    ("config.hypervisor.default_memory", "much", "must be an integer, not 'much'"),
    ("config.hypervisor.path", "/bin/sh", "is not enabled"),
    ("config.hypervisor.default_memroy", "512", "did you mean .*default_memory"),
    ("container.resource.swappiness", "10", "the guest has no swap"),
    ("confg.runtime.name", "x", "unknown annotation"),
]


@pytest.mark.parametrize(("name", "value", "cause"), REFUSED, ids=[row[0] for row in REFUSED])
def test_an_annotation_that_cannot_be_followed_fails_the_pod(
    trial: PodTrial, name: str, value: str, cause: str
) -> None:
    if not trial.runtime.is_machine:
        pytest.skip("these annotations are not runc's")
    with pytest.raises(CriError, match=cause) as caught:
        trial.run_pod(Pod(annotations={PREFIX + name: value}))
    assert f"annotation {PREFIX}{name}" in caught.value.details


def test_an_annotation_of_a_container_that_its_pod_has_not(trial: PodTrial) -> None:
    if not trial.runtime.is_machine:
        pytest.skip("these annotations are not runc's")
    name = f"{PREFIX}config.hypervisor.default_vcpus"
    pod = trial.run_pod(Pod(annotations={name: "1"}))
    same = trial.cri.run(pod, Container(name="same", annotations={name: "1"}))
    assert trial.cri.sh(same, "echo works") == "works\n"
    with pytest.raises(CriError, match=f"{name} of a container concerns its whole pod"):
        trial.cri.run(pod, Container(name="other", annotations={name: "2"}))
