"""The one sandbox of a shim: which ids it may have."""

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage

from kata.sandbox.errors import InvalidRequestError
from kata.sandbox.pod import Pod
from kata.service.publisher import Publisher
from kata.service.sandbox_owner import SandboxOwner

pytestmark = pytest.mark.unit


async def test_a_pod_s_annotations_do_not_vouch_for_its_id() -> None:
    owner = SandboxOwner(Publisher("", "k8s.io"), "/run/s/0123456789", 0)
    with pytest.raises(InvalidRequestError, match=r"'\.\./up' is no sandbox id"):
        await owner.bring_up(
            Pod("../up", "", ""), AnyMessage(), {"io.kubernetes.cri.sandbox-id": "fine"}
        )
