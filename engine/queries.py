"""The query that several stages share: responses with their prompts."""

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


def used_responses(*columns: str) -> str:
    """Every response with its prompt, those of a prompt together.

    `columns` are the ones of `responses` to give. Rewrites that cannot serve (`fallback`) are left out."""
    selected: list[str] = []
    for column in columns:
        renamed = f"responses.{column} as {column}"
        selected.append(renamed)
    listed = ", ".join(selected)
    return _USED_RESPONSES.format(columns=listed)
