-- format: one chosen answer and a list of rejected ones: prompt, messages or whole dialogues; rejected (rejected_responses) as a list of texts, of turns or of dialogues; a pair for each
-- marked by: rejected, rejected_responses
-- reads: prompt[turn from value], messages[turn], chosen[turn from value], rejected[turn from value], rejected_responses[turn from value], system, tools
-- reads: reference, reference_answer, ground_truth, solution
-- optional: system, reference, reference_answer, ground_truth, solution
with columns as (
    select n, row, others as may_be_prompts, said_at(row, '$.prompt', 'user') as own, coalesce(json_type(row, '$.prompt'), 'NULL') <> 'NULL' as has_prompt,
           case when coalesce(json_array_length(row, '$.messages'), 0) > 0 then messages_at(row, '$.messages') end as mm,
           said_at(row, '$.chosen', 'assistant') as cm,
           case when json_type(row, '$.rejected_responses') is not null then 'rejected_responses' else 'rejected' end as name, text_at(row, '$.system') as system
    from raw
), fields as (
    select *, case when has_prompt then own when mm is not null and (len(cm) < 2 or trimmed(mm) <> trimmed(cm)) then mm end as asked,
           coalesce(are_answers(list_at(row, '$.' || name)), false) and coalesce(json_type(row, '$.chosen') in ('VARCHAR', 'OBJECT') or json_type(row, '$.chosen[0]') = 'OBJECT', false) as is_of_this_form,
           case when is_of_this_form then answers_at(row, '$.' || name) end as sides
    from columns
), prompts as (
    select *, case when len(cm) > 1 and (asked is null or (not begins_with(cm[:-2], asked) and says_the_same(asked, cm[:-2]))) then cm[:-2] else asked end as prompt
    from fields
), said as (
    select *, list_filter(range(len(sides)), lambda i: coalesce(len(sides[i + 1]) = 0 or sides[i + 1][-1].role <> 'assistant' or sides[i + 1][-1].content is null, true)) as no_answers,
           list_filter(range(len(sides)), lambda i: len(sides[i + 1]) > 1 and not begins_with(sides[i + 1][:-2], prompt)) as others
    from prompts
)
select n, with_system(system, prompt) as messages,
       compared(cm[-1], list_transform(sides, lambda side: side[-1])) as responses,
       tools_at(row) as tools,
       reference_at(row) as reference,
       coalesce(case
           when json_type(row, '$.rejected') is not null and json_type(row, '$.rejected_responses') is not null then 'two_rejected: rejected and rejected_responses are both there; leave one out: prompts.ignore = ["rejected"]'
           when json_type(row, '$.chosen[0]') in ('VARCHAR', 'ARRAY') then 'several_chosen: chosen is ' || kind_of(row, '$.chosen') || '; one chosen answer is expected: make a row of each'
           when not is_of_this_form then 'missing_or_mistyped: chosen is ' || kind_of(row, '$.chosen') || ' and ' || name || ' is ' || kind_of(row, '$.' || name) || '; expected one answer and a list of texts, of turns or of dialogues'
           when len(sides) = 0 then 'empty_response: ' || name || ' is an empty list'
           when prompt is null and not has_prompt and len(may_be_prompts) > 0 then no_prompt_in_words(to_json({names: may_be_prompts, row: row}))
           when prompt is null and not has_prompt then 'no_prompt: the row has no column prompt or messages, and chosen is no whole dialogue' end,
           case when has_prompt then side_problem(row, 'prompt', text_at(row, '$.prompt'), own) end, case when mm is not null then turns_problem(row, 'messages', mm, 'content', 'role, content') end,
           side_problem(row, 'chosen', text_at(row, '$.chosen'), cm), optional_text_problem(row, 'system'), reference_problem(row), case
           when cm[-1].role is distinct from 'assistant' then 'no_response: chosen does not end with the assistant''s turn'
           when len(no_answers) > 0 then 'no_response: number ' || no_answers[1] + 1 || ' of ' || name || ' is no text and does not end with a turn of the assistant''s that has one'
           when len(cm) > 1 and not begins_with(cm[:-2], prompt) then 'prompts_differ: chosen does not begin with the prompt; where the dialogue is right: prompts.ignore = ["' || case when has_prompt then 'prompt' else 'messages' end || '"]'
           when len(others) > 0 then 'prompts_differ: number ' || others[1] + 1 || ' of ' || name || ' does not begin with the prompt; only the last turn may differ'
           when has_prompt and mm is not null and not repeats(mm, prompt, cm[-1]) then 'two_prompts: prompt and messages are both there and differ; leave one out: prompts.ignore = ["messages"]'
       end) as problem
from said
