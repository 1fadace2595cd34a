-- format: TRL preference rows: prompt, chosen, rejected as strings or as message lists; without prompt it is what both sides share
-- reads: prompt[turn], chosen[turn from value], rejected[turn from value], tools, system, reference, reference_answer, ground_truth, solution
-- instead: prompt[messages]
-- optional: system, reference, reference_answer, ground_truth, solution
-- `others` are the row's columns that are not read here and could be a prompt.
-- A prompt that is null or blank is not guessed: only where there is no such key is it what both sides share. Whole dialogues have their prompt in themselves.
-- One turn {from, value} as a side is the format sharegpt's.
with columns as (
    select n, row, others, text_at(row, '$.prompt') as p, messages_at(row, '$.prompt') as own, messages_at(row, '$.messages') as mm,
           text_at(row, '$.chosen') as c, case when json_type(row, '$.chosen.from') is null then side_at(row, '$.chosen') end as cm, text_at(row, '$.rejected') as r, case when json_type(row, '$.rejected.from') is null then side_at(row, '$.rejected') end as rm,
           coalesce(json_type(row, '$.prompt'), 'MISSING') as prompt_type, text_at(row, '$.system') as system,
           prompt_type = 'MISSING' and (coalesce(json_type(row, '$.messages'), 'NULL') not in ('NULL', 'ARRAY') or coalesce(json_array_length(row, '$.messages') > 0, false)) as in_messages
    from raw
), fields as (
    select *, case when in_messages then mm else own end as pm,
           prompt_type = 'NULL' or (prompt_type = 'VARCHAR' and is_blank(p)) or (prompt_type = 'ARRAY' and len(own) = 0) as says_nothing,
           (prompt_type = 'MISSING' and not in_messages) or (says_nothing and coalesce(len(cm) > 1, false)) as implicit
    from columns
), common as (
    -- Two strings without a prompt: the prompt is what both begin with (TRL's extract_prompt), here back to the last space, so that no word is cut.
    select *, case when implicit then list_zip(string_split(c, ''), string_split(r, '')) end as letters,
           left(c, coalesce(list_position(list_transform(letters, lambda pair: pair[1] is not distinct from pair[2]), false), len(letters) + 1) - 1) as beginning,
           -- Where one answer is the beginning of the other, its last word is left to it.
           list_contains([stripped_end(c), stripped_end(r)], stripped_end(beginning)) as is_one_of_them,
           case when is_one_of_them then stripped_end(beginning) else beginning end as both_have,
           -- A prompt that is a string beside whole dialogues is their first user turn: then their turns before the last are the prompt.
           coalesce(p is not null and len(cm) > 2 and trimmed(list_filter(cm[:-2], lambda turn: turn.role <> 'system'))[1] = trimmed([{role: 'user', content: p}])[1], false) as opens
    from fields
), shared as (
    select *, coalesce(nullif(regexp_extract(both_have, '(?s)^(.*)\s', 1), ''), both_have) as shared_prompt,
           case when in_messages then list_append(others, 'messages') else others end as may_be_prompts
    from common
)
select n,
       list_concat(
           case when system is not null and system <> '' then [{role: 'system', content: system}] else [] end,
           case when (implicit or opens) and cm is not null then cm[:-2]
                when implicit then [{role: 'user', content: shared_prompt}]
                when p is not null then [{role: 'user', content: p}]
                else pm end) as messages,
       [{text: case when cm is not null then cm[-1].content when implicit then trim(substr(c, len(shared_prompt) + 1), e' \t\r\n') else c end, score: 1.0, turn: cm[-1].turn},
        {text: case when rm is not null then rm[-1].content when implicit then trim(substr(r, len(shared_prompt) + 1), e' \t\r\n') else r end, score: 0.0, turn: rm[-1].turn}] as responses,
       tools_at(row) as tools,
       reference_at(row) as reference,
       implicit and c is not null as prompt_is_guessed,
       coalesce(side_problem(row, 'chosen', c, cm), side_problem(row, 'rejected', r, rm), case
           when (implicit or in_messages) and (c is not null or (implicit and len(cm) = 1)) and len(may_be_prompts) > 0 then no_prompt_in_words(to_json(may_be_prompts))
           when says_nothing and not implicit then 'empty_prompt: prompt is ' || case when prompt_type = 'NULL' then 'null' else 'empty' end || '; write it into the row, or take the row out'
           when in_messages then turns_problem(row, 'messages', mm, 'content', 'role, content')
           when not implicit then side_problem(row, 'prompt', p, pm) end,
                optional_text_problem(row, 'system'), reference_problem(row), case
           when (c is null) <> (r is null) then 'missing_or_mistyped: chosen is ' || kind_of(row, '$.chosen') || ' and rejected is ' || kind_of(row, '$.rejected') || '; expected two strings or two lists of turns'
           when len(cm) = 0 or len(rm) = 0 then 'empty_response: a side has no messages'
           when cm[-1].role is distinct from 'assistant' and cm is not null or rm[-1].role is distinct from 'assistant' and rm is not null
               then 'no_response: a side does not end with the assistant''s turn'
           when cm is not null and cm[:-2] <> rm[:-2] then 'prompts_differ: the sides differ before the last turn'
           when cm is not null and not implicit and not opens and len(cm) > 1 and compared(cm[:-2]) <> compared(coalesce(pm, [{role: 'user', content: p, turn: null}]))
               then 'prompts_differ: the sides do not begin with the prompt'
           when implicit and c is not null and regexp_matches(c, '^\s*Human:') then 'hh_dialogue: this is the format hh'
           when implicit and c is not null and trim(shared_prompt) = '' then 'empty_prompt: the row has no column prompt, and chosen and rejected have no beginning in common'
           when implicit and is_one_of_them and stripped_end(c) <> stripped_end(r) and not regexp_matches(both_have, '\s')
               then 'empty_prompt: the row has no column prompt, and one of chosen and rejected is the beginning of the other: nothing says where the prompt ends'
       end) as problem
from shared
