-- format: TRL preference rows: prompt, chosen, rejected as strings or as message lists; without prompt it is what both sides share
-- reads: prompt[turn], messages[turn], chosen[turn from value], rejected[turn from value], tools, system, reference, reference_answer, ground_truth, solution
-- reads: score_chosen, score_rejected, chosen_score, rejected_score, rating_chosen, rating_rejected, chosen_rating, rejected_rating, chosen-rating, rejected-rating, reward_chosen, reward_rejected, chosen_reward, rejected_reward
-- optional: system, reference, reference_answer, ground_truth, solution, score_chosen, score_rejected, chosen_score, rejected_score, rating_chosen, rating_rejected, chosen_rating, rejected_rating, chosen-rating, rejected-rating, reward_chosen, reward_rejected, chosen_reward, rejected_reward
-- `others` are the row's columns that are not read here and could be a prompt.
-- A prompt that is null or blank is not guessed: only where there is no such key is it what both sides share. Whole dialogues have their prompt in themselves.
-- Messages are the prompt where there is no such key; beside a prompt or whole dialogues they may only say the same again.
-- One turn {from, value} as a side is the format sharegpt's.
with columns as (
    select n, row, others, text_at(row, '$.prompt') as p, messages_at(row, '$.prompt') as own, messages_at(row, '$.messages') as mm,
           text_at(row, '$.chosen') as c, case when json_type(row, '$.chosen.from') is null then side_at(row, '$.chosen') end as cm, text_at(row, '$.rejected') as r, case when json_type(row, '$.rejected.from') is null then side_at(row, '$.rejected') end as rm,
           coalesce(json_type(row, '$.messages'), 'NULL') as messages_type, coalesce(json_type(row, '$.prompt'), 'MISSING') as prompt_type, text_at(row, '$.system') as system,
           prompt_type = 'MISSING' and (messages_type not in ('NULL', 'ARRAY') or coalesce(json_array_length(row, '$.messages') > 0, false)) as messages_alone, has_numbers(row) as numbers
    from raw
), fields as (
    select *, case when numbers then ratings_at(row) end as ratings, case when messages_alone then coalesce(len(cm) < 2 or trimmed(mm) <> trimmed(cm), true) else false end as in_messages, case when in_messages then mm else own end as pm,
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
           -- A prompt beside whole dialogues is all that is said before their answers; or it is their first user turn or the last: then the dialogues' turns are the prompt.
           case when len(cm) > 1 and not implicit then coalesce(pm, [a_turn('user', p)]) end as asked,
           case when asked is not null then begins_with(cm[:-2], asked) end as agrees,
           coalesce(case when not agrees then says_the_same(asked, cm[:-2]) end, false) as opens
    from fields
), shared as (
    select *, coalesce(nullif(regexp_extract(both_have, '(?s)^(.*)\s', 1), ''), both_have) as shared_prompt,
           case when in_messages then list_append(others, 'messages') else others end as may_be_prompts
    from common
), said as (
    select *, list_concat(
           case when system is not null and system <> '' then [a_turn('system', system)] else [] end,
           case when (implicit or opens) and cm is not null then cm[:-2]
                when implicit then [a_turn('user', shared_prompt)]
                when p is not null then [a_turn('user', p)]
                else pm end) as messages,
           case when cm is not null then cm[-1].content when implicit then trim(substr(c, len(shared_prompt) + 1), e' \t\r\n') else c end as chosen,
           case when rm is not null then rm[-1].content when implicit then trim(substr(r, len(shared_prompt) + 1), e' \t\r\n') else r end as rejected
    from shared
)
select n, messages,
       [{text: chosen, score: 1.0, rating: ratings[1], turn: cm[-1].turn}, {text: rejected, score: 0.0, rating: ratings[2], turn: rm[-1].turn}] as responses,
       tools_at(row) as tools,
       reference_at(row) as reference,
       implicit and c is not null as prompt_is_guessed,
       coalesce(case when numbers and has_scored_lists(row) then 'missing_or_mistyped: answers and their scores stand beside chosen and rejected in lists: this is the format scored_lists' end,
                side_problem(row, 'chosen', c, cm), side_problem(row, 'rejected', r, rm), case
           when (implicit or in_messages) and (c is not null or (implicit and len(cm) = 1)) and len(may_be_prompts) > 0 then no_prompt_in_words(to_json({names: may_be_prompts, row: row}))
           when says_nothing and not implicit then 'empty_prompt: prompt is ' || case when prompt_type = 'NULL' then 'null' else 'empty' end || '; write it into the row, or take the row out'
           when in_messages then turns_problem(row, 'messages', mm, 'content', 'role, content')
           when not implicit then side_problem(row, 'prompt', p, pm) end,
                optional_text_problem(row, 'system'), reference_problem(row), case when numbers then ratings_problem(row) end, case
           when (c is null) <> (r is null) then 'missing_or_mistyped: chosen is ' || kind_of(row, '$.chosen') || ' and rejected is ' || kind_of(row, '$.rejected') || '; expected two strings or two lists of turns'
           when len(cm) = 0 or len(rm) = 0 then 'empty_response: a side has no messages'
           when cm[-1].role is distinct from 'assistant' and cm is not null or rm[-1].role is distinct from 'assistant' and rm is not null
               then coalesce(bad_role_in_words(cm[-1].role), bad_role_in_words(rm[-1].role), 'no_response: a side does not end with the assistant''s turn')
           when cm is not null and cm[:-2] <> rm[:-2] then 'prompts_differ: the sides differ before the last turn; only the last turn may differ'
           when not agrees and not opens then 'prompts_differ: the sides do not begin with the prompt; where the dialogues are right: prompts.ignore = ["' || case when in_messages then 'messages' else 'prompt' end || '"]'
           when prompt_type <> 'MISSING' and messages_type <> 'NULL' and (messages_type <> 'ARRAY' or json_array_length(row, '$.messages') > 0) and not is_blank(json_extract_string(row, '$.messages')) and not repeats(mm, messages, coalesce(cm[-1], a_turn('assistant', chosen)))
               then 'two_prompts: prompt and messages are both there, and messages is not the prompt, nor the prompt and the chosen response; leave one out: prompts.ignore = ["messages"]'
           when implicit and c is not null and regexp_matches(c, '^\s*Human:') then 'hh_dialogue: this is the format hh'
           when implicit and c is not null and trim(shared_prompt) = '' then 'empty_prompt: the row has no column prompt, and chosen and rejected have no beginning in common'
           when implicit and is_one_of_them and stripped_end(c) <> stripped_end(r) and not regexp_matches(both_have, '\s')
               then 'empty_prompt: the row has no column prompt, and one of chosen and rejected is the beginning of the other: nothing says where the prompt ends'
       end) as problem
from said
