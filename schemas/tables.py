"""The six tables: every column once, with what it holds.

A table is the union of all finished folders that add rows to it. The comments travel in the files, so
`DESCRIBE` is never the only documentation.
"""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa


def _column(name: str, kind: pa.DataType, comment: str) -> pa.Field:
    return pa.field(name, kind, metadata={"comment": comment})


def _optional(name: str, kind: pa.DataType, comment: str) -> pa.Field:
    """A column that a file has only where one of its rows has a value in it (`stored`)."""
    return _column(name, kind, comment).with_metadata({"comment": comment, "optional": "yes"})


def _flat(kind: pa.DataType) -> pa.DataType:
    """A list without nulls in it: said in the schema, because then Parquet reads it a quarter faster."""
    return pa.list_(pa.field("element", kind, nullable=False))


IDS = _flat(pa.int32())
LOGPS = _flat(pa.float32())
MASK = _flat(pa.bool_())
PROBABILITIES = pa.list_(pa.float64())
SCORES = pa.map_(pa.string(), pa.float64())
MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
_GIVEN_RESPONSE = pa.struct(
    [
        ("comparison_id", pa.string()),
        ("text", pa.string()),
        ("score", pa.float64()),
    ]
)
GIVEN = pa.list_(_GIVEN_RESPONSE)
_TEXTS = pa.list_(pa.string())

TABLES: dict[str, pa.Schema] = {
    "prompts": pa.schema(
        [
            _column("prompt_id", pa.string(), "digest of the messages; also settles the shard and the split"),
            _column(
                "messages",
                MESSAGES,
                "the prompt as turns: role (system, user, assistant) and content, the last one the user's",
            ),
            _column("prompt", pa.string(), "the last user message, for people and for SQL"),
            _column(
                "given",
                GIVEN,
                "responses that came with the prompt; those of one input row share a comparison_id",
            ),
            _column("file", pa.string(), "name of the input file where the prompt was first seen"),
            _column(
                "line", pa.int64(), "line (JSON Lines) or element (JSON array, Parquet) in that file, from 1"
            ),
            _column(
                "given_split",
                pa.string(),
                "train or test where the input says so, else null: then the prompt's digest decides",
            ),
            _column("reference", pa.string(), "a right answer that the data brings for the judge, else null"),
            _optional(
                "chat", pa.string(), "JSON {messages, tools}: what the template is given, where it is more"
            ),
            _optional("turns", _TEXTS, "JSON of the turn of each of given, or null where it is text alone"),
            _optional("ratings", PROBABILITIES, "the data's own ratings, one for each of given, or null"),
            _optional(
                "metadata",
                pa.string(),
                "JSON [{comparison_id, row}]: what prompts.metadata keeps of each row",
            ),
        ]
    ),
    "responses": pa.schema(
        [
            _column(
                "response_id",
                pa.string(),
                "digest of the prompt_id and the text, and for what we made of how it was made: two equal"
                " samples are two rows",
            ),
            _column("prompt_id", pa.string(), "the prompt answered"),
            _column("source", pa.string(), "given, generated or rewritten"),
            _column("parent_id", pa.string(), "the response this one is a rewrite of, else null"),
            _column("text", pa.string(), "the response"),
            # Null also where a stop string or token of the recipe ended the sample: its ids say more than
            # its text. (Not in the comment, since that stands in the files, whose bytes stay as they are.)
            _column(
                "response_ids",
                IDS,
                "token ids as sampled by the recipe's model, else null: the text is then tokenised by "
                "logprobs",
            ),
            _column(
                "sampled_token_logps",
                LOGPS,
                "of a sampled response: the sampling model's log-prob of each token, before temperature, nat",
            ),
            _column(
                "finish_reason",
                pa.string(),
                "of a sampled response: stop, or length where max_tokens or the model's positions ended it",
            ),
            _column("reference_id", pa.string(), "of a rewrite: the response it took as its reference"),
            _column("edit_to_parent", pa.int32(), "of a rewrite: edit distance to its parent, in words"),
            _column(
                "edit_to_reference", pa.int32(), "of a rewrite: edit distance to its reference, in words"
            ),
            _column(
                "edit_between",
                pa.int32(),
                "of a rewrite: edit distance between parent and reference, in words",
            ),
            _column("length_ratio", pa.float64(), "of a rewrite: its words over its parent's"),
            _column(
                "fallback",
                pa.string(),
                "of a rewrite that is not used: empty, unchanged, copy, too_far or unfinished; the pair "
                "is then parent and reference",
            ),
            _optional("turn", pa.string(), "JSON: the assistant's turn, where it is more than its text"),
        ]
    ),
    "scores": pa.schema(
        [
            _column("prompt_id", pa.string(), "the prompt answered"),
            _column("response_id", pa.string(), "the response rated"),
            _column(
                "scorer", pa.string(), "who rates: given (the data's own preference or score) or a judge"
            ),
            _column(
                "comparison_id",
                pa.string(),
                "responses rated against each other share it; null for a rating that stands alone",
            ),
            _column(
                "score",
                pa.float64(),
                "higher is better; null where the judge gave none. given: 1 for chosen, 0 for rejected, "
                "or the data's own; rating: the mean mark; pairwise: the chance to win",
            ),
            _column(
                "distribution",
                PROBABILITIES,
                "rating: the probability of each mark, from the lowest; pairwise: of winning when shown "
                "first, when shown second",
            ),
            _column(
                "mass",
                pa.float64(),
                "probability that the judge goes on with a mark at all, before the marks are made to sum to "
                "one; pairwise: the lower of the two orders'",
            ),
            _column("agreed", pa.bool_(), "pairwise: whether both orders named the same winner"),
            _column(
                "answer",
                pa.string(),
                "the judge's words: its thoughts before the mark, or what it said in place of one",
            ),
        ]
    ),
    "logprobs": pa.schema(
        [
            _column("prompt_id", pa.string(), "the prompt answered"),
            _column("response_id", pa.string(), "the response scored"),
            _column(
                "context",
                pa.string(),
                "what stood before the response: plain (the prompt alone) or quality (the prompt under "
                "the quality prompt)",
            ),
            _column("prompt_ids", IDS, "token ids of the rendered prompt"),
            _column("response_ids", IDS, "token ids of the response, its end-of-sequence token included"),
            _column("token_logps", LOGPS, "reference log-prob of each response token, nat, float32"),
            _column("logps", pa.float64(), "their sum, taken in float64"),
            _column("truncated", pa.string(), "what max_length cut off: prompt, response or both; else null"),
        ]
    ),
    "pairs": pa.schema(
        [
            _column("pair_id", pa.string(), "digest of the two response ids"),
            _column("prompt_id", pa.string(), "the prompt both responses answer"),
            _column("chosen_response_id", pa.string(), "the response preferred"),
            _column("rejected_response_id", pa.string(), "the other one"),
            _column("split", pa.string(), "train or test: as the input says, else by the prompt's digest"),
            _column("source", pa.string(), "source of the chosen response"),
            _column(
                "chosen_score", pa.float64(), "score that the choice went by, of the chosen response, if any"
            ),
            _column(
                "rejected_score",
                pa.float64(),
                "score that the choice went by, of the rejected response, if any",
            ),
            _column("prompt_ids", IDS, "token ids of the prompt, shared by both sides"),
            _column("chosen_ids", IDS, "token ids of the chosen response"),
            _column("rejected_ids", IDS, "token ids of the rejected response"),
            _column("ref_chosen_token_logps", LOGPS, "reference log-prob of each chosen token, nat"),
            _column("ref_rejected_token_logps", LOGPS, "reference log-prob of each rejected token, nat"),
            _column(
                "chosen_edit_mask",
                MASK,
                "per chosen token: true where it is in the diff of the two responses",
            ),
            _column("rejected_edit_mask", MASK, "per rejected token: true where it is in the diff"),
            _column(
                "quality_prompt_ids",
                IDS,
                "token ids of the prompt under the quality prompt; null where the recipe has no such context",
            ),
            _column(
                "ref_chosen_quality_token_logps",
                LOGPS,
                "reference log-prob of each chosen token under the quality prompt, nat",
            ),
            _column(
                "ref_rejected_quality_token_logps",
                LOGPS,
                "reference log-prob of each rejected token under the quality prompt, nat",
            ),
            _column(
                "chosen_scores",
                SCORES,
                "scorer -> mean score of the chosen response, of every scorer that rated it",
            ),
            _column("rejected_scores", SCORES, "scorer -> mean score of the rejected response"),
            _column(
                "baseline_response_id",
                pa.string(),
                "the pair's baseline response (RPO's y0); null where the recipe has no pairs.baseline",
            ),
            _column("baseline_ids", IDS, "token ids of the baseline response"),
            _column("ref_baseline_token_logps", LOGPS, "reference log-prob of each baseline token, nat"),
            _column("ref_chosen_logps", pa.float64(), "sum of ref_chosen_token_logps"),
            _column("ref_rejected_logps", pa.float64(), "sum of ref_rejected_token_logps"),
            _column("prompt_length", pa.int32(), "tokens"),
            _column("chosen_length", pa.int32(), "tokens"),
            _column("rejected_length", pa.int32(), "tokens"),
            _column("prompt", pa.string(), "the last user message, for people"),
            _column("chosen", pa.string(), "the chosen text, for people"),
            _column("rejected", pa.string(), "the rejected text, for people"),
            _optional("metadata", pa.string(), "JSON: what prompts.metadata keeps of the input row"),
        ]
    ),
    "rejects": pa.schema(
        [
            _column("stage", pa.string(), "the stage that refused the row"),
            _column("reason", pa.string(), "a short code to group by"),
            _column("detail", pa.string(), "what exactly was wrong"),
            _column("file", pa.string(), "name of the input file"),
            _column("line", pa.int64(), "line or element in it, from 1"),
            _column("prompt_id", pa.string(), "the prompt, once it has an id"),
            _column("response_id", pa.string(), "the response, once it has an id"),
            _column("raw", pa.string(), "the row as it was read, bytes that are no UTF-8 shown as \\x.."),
        ]
    ),
}


def stored(rows: pa.Table) -> pa.Table:
    """The rows without the optional columns in which no row has a value.

    So a column that is new, or that few have a use for, changes no file of those who have none."""
    for field in rows.schema:
        is_optional = b"optional" in (field.metadata or {})
        if is_optional and rows[field.name].null_count == len(rows):
            rows = rows.drop_columns(field.name)
    return rows


def table(name: str, columns: Mapping[str, Any] | None = None) -> pa.Table:
    """Rows of a table from columns: sequences or Arrow arrays of one length.

    A column left out is null throughout. No columns: an empty table."""
    schema = TABLES[name]
    columns = columns or {}
    unknown = columns.keys() - set(schema.names)
    assert not unknown, f"{name} has no column {unknown}"
    length = len(next(iter(columns.values()), []))
    arrays = []
    for field in schema:
        values = columns.get(field.name)
        if values is None:
            arrays.append(pa.nulls(length, field.type))
        elif isinstance(values, pa.Array | pa.ChunkedArray):
            arrays.append(values.cast(field.type))
        else:
            arrays.append(pa.array(values, field.type))
    return pa.Table.from_arrays(arrays, schema=schema)
