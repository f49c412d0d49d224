"""The value system: every value that a workflow gets is ``decode(encode(value))``, JSON through typed codecs.

Read ``values.py`` (what the rest of Relight uses), then ``plan.py`` (from an annotation to what must be done),
``nodes.py`` and ``unions.py`` (how it is done), ``foreign.py`` (numpy, pydantic, paths), ``faults.py`` (messages).
"""

from relight.codec.values import MAX_PAYLOAD_BYTES, Codec, CodecRegistry, ValueCodec, canonical_hash

__all__ = ["MAX_PAYLOAD_BYTES", "Codec", "CodecRegistry", "ValueCodec", "canonical_hash"]
