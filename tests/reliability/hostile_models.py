"""Model folders that somebody spoilt on purpose: each is a small whole one with one thing in it hostile."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.schemas.models import shard, write_index

Spoil = Callable[[Path], None]
WEIGHTS = "model.safetensors"
WRONG: list[Any] = [
    None,
    "x",
    "",
    [],
    {},
    [[]],
    {"a": []},
    -1,
    0,
    1.5,
    True,
    10**12,
    10**30,
    [1, "a", None],
    "\ud800",
    float("nan"),
]
SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
FIELDS = (
    *SIZES,
    *(
        "num_key_value_heads",
        "head_dim",
        "max_position_embeddings",
        "rms_norm_eps",
        "rope_theta",
        "rope_parameters",
    ),
    *(
        "hidden_act",
        "tie_word_embeddings",
        "architectures",
        "model_type",
        "torch_dtype",
        "dtype",
        "eos_token_id",
    ),
    *("bos_token_id", "pad_token_id", "layer_types", "sliding_window", "quantization_config", "text_config"),
    *("is_decoder", "initializer_range", "attention_bias", "auto_map", "id2label", "transformers_version"),
)


def header(path: Path) -> tuple[dict[str, Any], bytes]:
    raw = (path / WEIGHTS).read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def write(path: Path, names: dict[str, Any], data: bytes, length: int | None = None) -> None:
    text = json.dumps(names).encode()
    (path / WEIGHTS).write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)


def of_tensor(**values: Any) -> Spoil:
    """What the header says of the second tensor, changed."""

    def spoil(path: Path) -> None:
        names, data = header(path)
        name = [name for name in names if name != "__metadata__"][1]
        names[name] |= values
        write(path, names, data)

    return spoil


def of_length(length: int) -> Spoil:
    return lambda path: write(path, *header(path), length)


def cut(share: float) -> Spoil:
    def spoil(path: Path) -> None:
        raw = (path / WEIGHTS).read_bytes()
        (path / WEIGHTS).write_bytes(raw[: int(share * len(raw))])

    return spoil


def of_index(**named: Any) -> Spoil:
    """The index names something else for its first tensor, or for all."""

    def spoil(path: Path) -> None:
        weight_map: dict[str, Any] = shard(path)
        first = sorted(weight_map)[0]
        write_index(path, weight_map | {first: named["name"]})

    return spoil


def index_of_brackets(path: Path) -> None:
    shard(path)
    (path / f"{WEIGHTS}.index.json").write_text("[]")


def pickled(path: Path) -> None:
    """An index whose file is a pickle that would write a file when it is loaded."""
    names = {name: "pytorch_model.bin" for name in header(path)[0] if name != "__metadata__"}
    (path / WEIGHTS).unlink()
    (path / "pytorch_model.bin").write_bytes(
        b"cposix\nsystem\n(S'touch %s'\ntR." % str(path / "ran").encode()
    )
    write_index(path, names)


def of_file(name: str, content: str | bytes) -> Spoil:
    raw = content.encode(errors="surrogatepass") if isinstance(content, str) else content

    def spoil(path: Path) -> None:
        (path / name).write_bytes(raw)

    return spoil


def of_json(name: str, **values: Any) -> Spoil:
    def spoil(path: Path) -> None:
        content = json.loads((path / name).read_text()) if (path / name).exists() else {}
        (path / name).write_text(json.dumps(content | values))

    return spoil


def of_tokenizer(change: Callable[[dict[str, Any]], Any]) -> Spoil:
    def spoil(path: Path) -> None:
        content = json.loads((path / "tokenizer.json").read_text())
        change(content)
        (path / "tokenizer.json").write_text(json.dumps(content))

    return spoil


REFUSED: dict[str, Spoil] = {
    "a header of 10^18 bytes": of_length(10**18),
    "a header of 99 MB": of_length(99_000_000),
    "a header of no bytes": of_length(0),
    "a header cut short": of_length(40),
    "offsets past the end": of_tensor(data_offsets=[0, 10**15]),
    "offsets before the beginning": of_tensor(data_offsets=[-4, 100]),
    "offsets the other way round": of_tensor(data_offsets=[400, 0]),
    "offsets that are texts": of_tensor(data_offsets=["0", "4"]),
    "offsets that are numbers": of_tensor(data_offsets=7),
    "one offset": of_tensor(data_offsets=[0]),
    "offsets of a fraction": of_tensor(data_offsets=[0.5, 4.5]),
    "tensors that overlap": of_tensor(data_offsets=[0, 512]),
    "a type that does not exist": of_tensor(dtype="F128"),
    "a type that is a list": of_tensor(dtype=["F32"]),
    "a type of another size": of_tensor(dtype="F64"),
    "a shape of 10^18": of_tensor(shape=[10**18]),
    "a shape of 10^9 x 10^9": of_tensor(shape=[10**9, 10**9]),
    "a shape with a negative size": of_tensor(shape=[-1, 4]),
    "a shape with no size": of_tensor(shape=[0, 48]),
    "a shape of texts": of_tensor(shape=["a"]),
    "a shape that is a number": of_tensor(shape=48),
    "no shape": of_tensor(shape=None),
    "a header that is a list": of_file(WEIGHTS, struct.pack("<Q", 2) + b"[]"),
    "a header nested deep": of_file(WEIGHTS, struct.pack("<Q", 200_000) + b"[" * 200_000),
    "a header of numbers": of_file(WEIGHTS, struct.pack("<Q", 8) + b'{"a": 1}'),
    "half of the weights": cut(0.5),
    "nearly all of the weights": cut(0.999),
    "weights of 3 bytes": cut(0.0),
    "an index that names a pickle": pickled,
    "an index that names a file above": of_index(name="../model.safetensors"),
    "an index that names an absolute path": of_index(name="/etc/passwd"),
    "an index that names the folder": of_index(name="."),
    "an index that names the folder above": of_index(name=".."),
    "an index that names nothing": of_index(name=""),
    "an index that names a .pt": of_index(name="model.pt"),
    "an index that names config.json": of_index(name="config.json"),
    "an index that names a number": of_index(name=7),
    "an index that names a list": of_index(name=["a"]),
    "an index with a NUL": of_index(name="a\0.safetensors"),
    "an index with a backslash": of_index(name="..\\a.safetensors"),
    "an index that is a list": index_of_brackets,
    "a config of brackets": of_file("config.json", "[" * 200_000),
    "a config that is a list": of_file("config.json", "[]"),
    "a config of bytes": of_file("config.json", b"\xff\xfe\x00"),
    "a config of nothing": of_file("config.json", ""),
    "a config of a long number": of_file("config.json", '{"vocab_size": ' + "9" * 5000 + "}"),
    "a tokenizer that is a list": of_file("tokenizer.json", "[]"),
    "a tokenizer of nothing": of_file("tokenizer.json", ""),
    "a tokenizer of nulls": of_file("tokenizer.json", '{"model": null, "added_tokens": null}'),
    "a tokenizer nested deep": of_file("tokenizer.json", "[" * 200_000),
    "a tokenizer without a vocabulary": of_tokenizer(lambda content: content["model"].pop("vocab")),
    "a vocabulary of texts": of_tokenizer(lambda content: content["model"].update(vocab={"a": "b"})),
    "a vocabulary of 10^12": of_tokenizer(lambda content: content["model"]["vocab"].update(zz=10**12)),
    "added tokens of numbers": of_tokenizer(lambda content: content.update(added_tokens=[1, 2])),
    "a template that is a number": of_json("tokenizer_config.json", chat_template=7),
    "templates with names that are lists": of_json(
        "tokenizer_config.json", chat_template=[{"name": [], "template": "x"}]
    ),
    "a template of bytes": of_file("chat_template.jinja", b"\xff\xfe"),
    "a tokenizer of a class that does not exist": of_json("tokenizer_config.json", tokenizer_class=["x"]),
    "a special token that is a number": of_json("tokenizer_config.json", eos_token=7),
    "a special token that is a list": of_json("tokenizer_config.json", eos_token=["</s>"]),
    "generation that is a list": of_file("generation_config.json", "[]"),
    "generation that ends with mixed kinds": of_json("generation_config.json", eos_token_id=[1, "a", None]),
    "generation that ends with a text": of_json("generation_config.json", eos_token_id="</s>"),
    "generation that ends with an object": of_json("generation_config.json", eos_token_id={"a": 1}),
    "generation that ends beyond the vocabulary": of_json("generation_config.json", eos_token_id=10**12),
}
# A size that is far from that of the tensors.
for _size in SIZES:
    for _value in (0, -1, 10**9, 10**12, "x", [8], 1.5, None):
        REFUSED[f"{_size} = {_value}"] = of_json("config.json", **{_size: _value})

for _name in ("rope_scaling", "rope_parameters"):
    for _part in ("factor", "rope_theta"):
        _turned: dict[str, Any] = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}
        REFUSED[f"{_name}.{_part} = x"] = of_json("config.json", **{_name: _turned | {_part: "x"}})

# Whatever else a config may say: it is refused, or the model gives the numbers that it gave before.
ANYTHING: dict[str, Spoil] = {}
for _field in FIELDS:
    for _value in WRONG:
        ANYTHING[f"config: {_field} = {str(_value)[:20]!a}"] = of_json("config.json", **{_field: _value})
for _file in ("generation_config.json", "tokenizer_config.json"):
    for _field in (
        "eos_token_id",
        "bos_token",
        "eos_token",
        "pad_token",
        "model_max_length",
        "added_tokens_decoder",
        "extra_special_tokens",
        "temperature",
        "tokenizer_class",
        "add_bos_token",
        "fast_tokenizer_files",
    ):
        for _value in WRONG:
            ANYTHING[f"{_file}: {_field} = {str(_value)[:20]!a}"] = of_json(_file, **{_field: _value})
