"""Small reward models for the tests: heads for sequence classification on trunks of several families."""

import json
import shutil
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerFast

TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def on_trunk(trunk: Path, path: Path, labels: int = 1, pad: int | None = None, seed: int = 1) -> Path:
    """A head of random numbers on the layers of a language model, with its tokenizer and template."""
    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_pretrained(
        trunk, num_labels=labels, dtype=torch.float32, pad_token_id=pad
    )
    model.config.pad_token_id = pad
    with torch.no_grad():
        model.score.weight.mul_(20)  # so that scores are of the size of real ones
    return _saved(model, trunk, path)


def of_family(family: str, trunk: Path, path: Path, **more) -> Path:
    """Random weights of another family, with the tokenizer and template of `trunk`."""
    torch.manual_seed(2)
    kind = getattr(transformers, f"{family}ForSequenceClassification")
    settings = {
        "vocab_size": json.loads((trunk / "config.json").read_text())["vocab_size"],
        "hidden_size": 32,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "num_labels": 1,
    }
    model = kind(kind.config_class(**(settings | more)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return _saved(model, trunk, path)


def word_pieces() -> PreTrainedTokenizerFast:
    """A tokenizer as BERT has it: [CLS] and [SEP] around a text, two texts told apart, no chat template."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=220, special_tokens=special, show_progress=False)
    words = "what is the answer to this question ? it is a long one , i say : no . user assistant [ ] sep cls"
    letters = " ".join("abcdefghijklmnopqrstuvwxyz0123456789")
    backend.train_from_iterator([words, letters, words.replace(" ", "")] * 3, trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def cross_encoder(path: Path, family: str = "Bert", **more) -> Path:
    """An encoder that reads two texts, and rates them by what it finds at [CLS]."""
    tokenizer = word_pieces()
    torch.manual_seed(3)
    kind = getattr(transformers, f"{family}ForSequenceClassification")
    settings = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 96,
        "pad_token_id": 0,
        "num_labels": 1,
    }
    model = kind(kind.config_class(**(settings | more)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def _saved(model, trunk: Path, path: Path) -> Path:
    model.save_pretrained(path)
    for name in TOKENIZER:
        shutil.copyfile(trunk / name, path / name)
    return path


def own_scores(path: Path, dialogues) -> torch.Tensor:
    """(N, labels) by transformers alone: each dialogue by apply_chat_template and one forward pass."""
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForSequenceClassification.from_pretrained(path, dtype=torch.float32).eval()
    rows = []
    for dialogue in dialogues:
        ids = tokenizer.apply_chat_template(dialogue, tokenize=True, return_dict=False)
        with torch.no_grad():
            rows.append(model(torch.tensor([ids])).logits[0])
    return torch.stack(rows)


def own_pair_scores(path: Path, pairs) -> torch.Tensor:
    """(N, labels) by transformers alone, of prompts and responses as two texts."""
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForSequenceClassification.from_pretrained(path, dtype=torch.float32).eval()
    rows = []
    for prompt, response in pairs:
        with torch.no_grad():
            rows.append(model(**tokenizer(prompt, response, return_tensors="pt")).logits[0])
    return torch.stack(rows)
