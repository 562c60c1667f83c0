"""The families of hosts: one short adapter each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chiasm.language.hosts.deepseek_vl import DeepseekVLAdapter
from chiasm.language.hosts.deepseek_vl_hybrid import DeepseekVLHybridAdapter
from chiasm.language.hosts.internvl import InternVLAdapter
from chiasm.language.hosts.janus import JanusAdapter
from chiasm.language.hosts.llava import LlavaAdapter
from chiasm.language.hosts.llava_next import LlavaNextAdapter
from chiasm.language.hosts.protocol import HostAdapter
from chiasm.language.hosts.qwen2_5_vl import Qwen25VLAdapter
from chiasm.language.hosts.qwen3_vl import Qwen3VLAdapter

HOSTS: dict[str, HostAdapter] = {
    "deepseek_vl": DeepseekVLAdapter(),
    "deepseek_vl_hybrid": DeepseekVLHybridAdapter(),
    "internvl": InternVLAdapter(),
    "janus": JanusAdapter(),
    "llava": LlavaAdapter(),
    "llava_next": LlavaNextAdapter(),
    "mgm": LlavaAdapter(late=True),
    "qwen2_5_vl": Qwen25VLAdapter(),
    "qwen3_vl": Qwen3VLAdapter(),
}
"""By the `model_type` of the checkpoint's configuration, or by its `host_family` where it has one.

MGM is of the library's LLaVA classes and says `"host_family": "mgm"`. HPT is a plain `llava`.
"""


def family_of(config: Mapping[str, Any]) -> str:
    """Return the key in `HOSTS` for a configuration, as `to_dict` or a `config.json` gives it."""
    return str(config.get("host_family", config.get("model_type", "(none)")))
