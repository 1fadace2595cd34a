-- format: prompts alone: prompt as a string or a message list, or messages
with fields as (
    select n, text_at(row, '$.prompt') as p, coalesce(messages_at(row, '$.prompt'), messages_at(row, '$.messages')) as messages,
           text_at(row, '$.system') as system, len(list_intersect(json_keys(row), ['chosen', 'rejected', 'completion', 'completions', 'response', 'responses', 'answer', 'answers', 'output', 'outputs', 'conversations'])) > 0 as answered
    from raw
)
select n,
       list_concat(case when system is not null and system <> '' then [{role: 'system', content: system}] else [] end,
                   case when p is not null then [{role: 'user', content: p}] else messages end) as messages,
       [] as responses,
       case
           when answered then 'has_responses: the row has responses as well: this is another format'
           when p is null and messages is null then 'missing_or_mistyped: prompt must be a string or a message list'
       end as problem
from fields
