"""The families of hosts: one short adapter each."""

from __future__ import annotations

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
    "qwen2_5_vl": Qwen25VLAdapter(),
    "qwen3_vl": Qwen3VLAdapter(),
}
"""By the `model_type` of the checkpoint's configuration."""
