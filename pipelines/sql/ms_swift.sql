-- format: ms-swift's pairs: messages (or conversations) that end with the chosen answer, and rejected_response as a text, a list of texts or turns; or rejected_messages as a dialogue
-- marked by: rejected_response, rejected_messages
-- reads: messages[turn], conversations[turn from value], rejected_response[turn from value], rejected_messages[turn from value], system, tools
-- reads: reference, reference_answer, ground_truth, solution, score_chosen, score_rejected, chosen_score, rejected_score, rating_chosen, rating_rejected, chosen_rating, rejected_rating, chosen-rating, rejected-rating, reward_chosen, reward_rejected, chosen_reward, rejected_reward
-- optional: system, reference, reference_answer, ground_truth, solution, score_chosen, score_rejected, chosen_score, rejected_score, rating_chosen, rating_rejected, chosen_rating, rejected_rating, chosen-rating, rejected-rating, reward_chosen, reward_rejected, chosen_reward, rejected_reward
with columns as (
    select n, row, case when json_type(row, '$.messages') is not null then 'messages' else 'conversations' end as asked_in,
           case when json_type(row, '$.rejected_messages') is not null then 'rejected_messages' else 'rejected_response' end as name, text_at(row, '$.system') as system, ratings_at(row) as ratings
    from raw
), fields as (
    select *, turns_of(list_at(row, '$.' || asked_in)) as cm, case when json_type(row, '$.' || name) in ('VARCHAR', 'ARRAY', 'OBJECT') then answers_at(row, '$.' || name) end as sides
    from columns
), said as (
    select *, cm[:-2] as prompt, list_filter(range(len(sides)), lambda i: coalesce(len(sides[i + 1]) = 0 or sides[i + 1][-1].role <> 'assistant' or sides[i + 1][-1].content is null, true)) as no_answers,
           list_filter(range(len(sides)), lambda i: len(sides[i + 1]) > 1 and not begins_with(sides[i + 1][:-2], cm[:-2])) as others,
           compared(cm[-1], list_transform(sides, lambda side: side[-1])) as pairs
    from fields
)
select n, with_system(system, prompt) as messages,
       list_transform(pairs, lambda one: {text: one.text, score: one.score, comparison: one.comparison, turn: one.turn, rating: case when one.score = 1.0 then ratings[1] else ratings[2] end}) as responses,
       tools_at(row) as tools,
       reference_at(row) as reference,
       coalesce(case
           when list_has_any(json_keys(row), ['prompt', 'chosen', 'rejected']) then 'missing_or_mistyped: the row has prompt, chosen or rejected as well: this is another format'
           when json_type(row, '$.rejected_response') is not null and json_type(row, '$.rejected_messages') is not null then 'two_rejected: rejected_response and rejected_messages are both there; leave one out: prompts.ignore = ["rejected_messages"]'
           when json_type(row, '$.messages') is not null and json_type(row, '$.conversations') is not null then 'two_prompts: messages and conversations are both there; leave one out: prompts.ignore = ["conversations"]'
           when sides is null then 'missing_or_mistyped: ' || name || ' is ' || kind_of(row, '$.' || name) || '; expected a text or a list' end,
           turns_problem(row, asked_in, cm, case when asked_in = 'messages' then 'content' else 'value' end, case when asked_in = 'messages' then 'role, content' else 'from, value' end),
           optional_text_problem(row, 'system'), reference_problem(row), ratings_problem(row), case
           when cm[-1].role is distinct from 'assistant' then 'no_response: ' || asked_in || ' does not end with the assistant''s turn, the chosen answer'
           when len(sides) = 0 then 'empty_response: ' || name || ' is an empty list'
           when len(sides) > 1 and ratings[2] is not null then 'bad_rating: one number for the rejected side stands beside ' || len(sides) || ' rejected answers'
           when len(no_answers) > 0 then 'no_response: answer number ' || no_answers[1] + 1 || ' of ' || name || ' is no text and does not end with a turn of the assistant''s that has one'
           when len(others) > 0 then 'prompts_differ: dialogue number ' || others[1] + 1 || ' of ' || name || ' differs from ' || asked_in || ' before the last turn; only the last turn may differ'
       end) as problem
from said
