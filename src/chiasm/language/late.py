"""Hosts whose projector comes after a fusion, which so works on the tower's own tokens."""

from __future__ import annotations

from chiasm.language.host import Host
from chiasm.language.hosts.janus import JanusAdapter
from chiasm.language.hosts.llava import LlavaAdapter
from chiasm.language.hosts.protocol import HostAdapter

LATE: dict[str, HostAdapter] = {
    "janus": JanusAdapter(late=True),
    "llava": LlavaAdapter(late=True),
}
"""By the `model_type` of the family's adapter."""


def with_late_projector(host: Host) -> Host:
    """Let a host's projector come late, where its family can; return the host.

    A host of another family stays as it is: a fusion then works on tokens in the decoder's width,
    behind the projector.
    """
    host.adapter = LATE.get(host.adapter.model_type, host.adapter)
    return host
