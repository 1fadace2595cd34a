-- format: TRL preference rows: prompt, chosen, rejected as strings or as message lists; without prompt it is what both sides share
with fields as (
    select n,
           text_at(row, '$.prompt') as p, messages_at(row, '$.prompt') as pm,
           text_at(row, '$.chosen') as c, messages_at(row, '$.chosen') as cm,
           text_at(row, '$.rejected') as r, messages_at(row, '$.rejected') as rm,
           coalesce(json_type(row, '$.prompt'), 'NULL') = 'NULL' as implicit,
           text_at(row, '$.system') as system
    from raw
), common as (
    -- Two strings without a prompt: the prompt is what both begin with (TRL's extract_prompt), here back to the last space, so that no word is cut.
    select *, case when implicit then list_zip(string_split(c, ''), string_split(r, '')) end as letters,
           left(c, coalesce(list_position(list_transform(letters, lambda pair: pair[1] is not distinct from pair[2]), false), len(letters) + 1) - 1) as both_have
    from fields
), shared as (
    select *, coalesce(nullif(regexp_extract(both_have, '(?s)^(.*)\s', 1), ''), both_have) as shared_prompt from common
)
select n,
       list_concat(
           case when system is not null and system <> '' then [{role: 'system', content: system}] else [] end,
           case when implicit and cm is not null then cm[:-2]
                when implicit then [{role: 'user', content: shared_prompt}]
                when p is not null then [{role: 'user', content: p}]
                else pm end) as messages,
       [{text: case when cm is not null then cm[-1].content when implicit then trim(substr(c, len(shared_prompt) + 1), e' \t\r\n') else c end, score: 1.0},
        {text: case when rm is not null then rm[-1].content when implicit then trim(substr(r, len(shared_prompt) + 1), e' \t\r\n') else r end, score: 0.0}] as responses,
       case
           when (c is null and cm is null) or (r is null and rm is null) then 'missing_or_mistyped: chosen and rejected must be strings or message lists'
           when not implicit and p is null and pm is null then 'missing_or_mistyped: prompt must be a string or a message list'
           when (c is null) <> (r is null) then 'missing_or_mistyped: one side is a string, the other a message list'
           when len(cm) = 0 or len(rm) = 0 then 'empty_response: a side has no messages'
           when cm[-1].role <> 'assistant' or rm[-1].role <> 'assistant' then 'no_response: a side does not end with the assistant''s turn'
           when cm is not null and cm[:-2] <> rm[:-2] then 'prompts_differ: the sides differ before the last turn'
           when cm is not null and not implicit and len(cm) > 1 and cm[:-2] <> coalesce(pm, [{role: 'user', content: p}])
               then 'prompts_differ: the sides do not begin with the prompt'
           when implicit and c is not null and regexp_matches(c, '^\s*Human:') then 'hh_dialogue: this is the format hh'
       end as problem
from shared
