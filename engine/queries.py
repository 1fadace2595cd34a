"""The query that several stages share: responses with their prompts."""

from collections.abc import Sequence

_USED_RESPONSES = """
select prompt_id,
       prompts.messages as messages,
       prompts.file as file,
       prompts.line as line,
       response_id,
       {columns}
from responses
join prompts using (prompt_id)
where fallback is null
order by prompt_id, response_id
"""


def used_responses(*columns: str, of_prompts: Sequence[str] = ()) -> str:
    """Every response with its prompt, those of a prompt together.

    `columns` are the ones of `responses` to give, `of_prompts` more of `prompts`. Rewrites that cannot serve
    (`fallback`) are left out."""
    selected: list[str] = []
    for column in columns:
        renamed = f"responses.{column} as {column}"
        selected.append(renamed)
    for column in of_prompts:
        renamed = f"prompts.{column} as {column}"
        selected.append(renamed)
    listed = ", ".join(selected)
    return _USED_RESPONSES.format(columns=listed)
