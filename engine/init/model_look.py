"""What a model is, by its config, the headers of its weights, its tokenizer and its template."""

import math
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from engine.text import Text
from schemas.adapters import is_adapter
from schemas.chat_template import own_template, read_template
from schemas.errors import UserError
from schemas.extensions import included
from schemas.fetching import nothing_fetched
from schemas.hub_models import find
from schemas.model_checks import architectures_of, checked_config, checked_weight_files
from schemas.model_content import read_json
from schemas.model_errors import usable
from schemas.model_files import CONFIG, model_home, tokenizer_home
from schemas.tensor_headers import tensors_of

_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
_OF_LAYER = re.compile(r"\.\d+\.")  # a layer's number in a tensor's name
_REWARD = "ForSequenceClassification"


@dataclass(frozen=True)
class ModelLook:
    """`name`: as the recipe has it; `path`: None for a name on the hub that is not on this machine, of which
    nothing else is known. `positions`: tokens that it was made for, 0 without limit; `has_template`: a chat
    template of its own; `end`: the token that ends a response.

    `in_layers`: parameters in the matrices of its layers, without embeddings, head and norms;
    `adapter_width`: rows and columns of these matrices, all together: an adapter of rank r has r times as
    many weights."""

    name: str
    path: Path | None
    parameters: int = 0
    in_layers: int = 0
    adapter_width: int = 0
    dtype: str = ""
    positions: int = 0
    has_template: bool = True
    end: str = ""
    is_adapter: bool = False


def look_at(name: str) -> ModelLook:
    """What a folder, or a name on the hub, is. Nothing is fetched.

    Raises UserError where it cannot be the model of a recipe, as `engine precompute` does."""
    path = _folder_of(name)
    if path is None:
        return ModelLook(name, None)
    written = str(path.absolute()) if Path(name).expanduser().is_dir() else name
    with usable(path):
        return _looked(written, path)


def is_here(name: str) -> bool:
    """False for a name on the hub whose files are not on this machine. Raises UserError for no model."""
    return _folder_of(name) is not None


def is_reward_model(name: str) -> bool:
    """True for a model on this machine that classifies texts: its logit is a score."""
    path = _folder_of(name)
    if path is None or not (path / CONFIG).is_file():
        return False
    architectures = architectures_of(read_json(path / CONFIG))
    return any(_REWARD in architecture for architecture in architectures)


def _folder_of(name: str) -> Path | None:
    """Where a model is; None for a name on the hub whose files are not here. Raises UserError."""
    try:
        with nothing_fetched():
            return find(name, "main")
    except UserError:
        is_path = Path(name).is_absolute() or name.startswith((".", "~")) or name.count("/") != 1
        if is_path:
            raise UserError(
                f"no model folder at {name}: name a folder in Hugging Face form, or a model of the hub as "
                "OWNER/NAME"
            ) from None
        return None


def _looked(name: str, path: Path) -> ModelLook:
    home = model_home(path)
    config = checked_config(home)
    parameters: Counter[str] = Counter()
    in_layers = 0
    adapter_width = 0
    for file in checked_weight_files(home, config):
        for tensor_name, tensor in tensors_of(file).items():
            size = math.prod(tensor.shape)
            parameters[tensor.dtype] += size
            if len(tensor.shape) == 2 and _OF_LAYER.search(tensor_name):
                in_layers += size
                adapter_width += sum(tensor.shape)
    ((most, _),) = parameters.most_common(1)
    text_config = config.get("text_config")
    limits = text_config if isinstance(text_config, dict) and text_config else config
    positions = limits.get("max_position_embeddings") or limits.get("n_positions") or 0
    template = own_template(tokenizer_home(path))
    used = template if template is not None else read_template(included("prompts", "plain", ".jinja"))
    text = Text(path, used)
    return ModelLook(
        name,
        path,
        parameters=parameters.total(),
        in_layers=in_layers,
        adapter_width=adapter_width,
        dtype=_DTYPES.get(most, most),
        positions=positions if isinstance(positions, int) else 0,
        has_template=template is not None,
        end=f"{text.tokenizer.convert_ids_to_tokens(text.end_id)} ({text.end_id})",
        is_adapter=is_adapter(path),
    )


def lines_about(look: ModelLook) -> list[str]:
    """What was found, one fact a line."""
    if look.path is None:
        return [
            f"{look.name} is not on this machine: nothing is known of it yet; engine precompute fetches it"
        ]
    positions = f"{look.positions:,} positions" if look.positions else "no limit of positions"
    template = "a chat template of its own" if look.has_template else "no chat template"
    adapter = " (an adapter on it)" if look.is_adapter else ""
    return [
        f"{in_millions(look.parameters)} parameters in {look.dtype}{adapter}, {positions}, {template}; "
        f"responses end with {look.end}"
    ]


def in_millions(count: int) -> str:
    """7.6 billion, 135 million, 41,000."""
    if count >= 1e9:
        return f"{count / 1e9:.1f} billion"
    if count >= 1e6:
        return f"{count / 1e6:.3g} million"
    return f"{count:,}"
