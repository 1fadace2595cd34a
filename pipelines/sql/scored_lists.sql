-- format: a prompt with answers in one list and their scores in another: responses, generations, completions or all_generated_responses with rewards, scores, ratings or all_rm_scores; all are kept
-- marked by: rewards, scores, ratings, rating, all_rm_scores
-- reads: prompt[turn], instruction, messages[turn], responses, generations, completions, all_generated_responses, rewards, scores, ratings, rating, all_rm_scores, chosen[turn], rejected[turn], tools
-- reads: system, reference, reference_answer, ground_truth, solution, score_chosen, score_rejected, chosen_score, rejected_score, rating_chosen, rating_rejected, chosen_rating, rejected_rating, chosen-rating, rejected-rating, reward_chosen, reward_rejected, chosen_reward, rejected_reward
-- leaves: generation_prompt, raw_generation_responses, labelling_prompt, raw_labelling_response, rationale, rationales
-- optional: system, ratings, rating, scores, rewards, all_rm_scores, reference, reference_answer, ground_truth, solution, score_chosen, score_rejected, chosen_score, rejected_score, rating_chosen, rating_rejected, chosen_rating, rejected_rating, chosen-rating, rejected-rating, reward_chosen, reward_rejected, chosen_reward, rejected_reward
-- A score of null is none. Where chosen and rejected stand beside (SimPO, distilabel) they are two of the answers and the row's preference; the scores are then the data's own ratings of all.
with columns as (
    select n, row, answer_lists(row) as answer_names, score_lists(row) as score_names, text_at(row, '$.system') as system,
           list_filter(['prompt', 'instruction', 'messages'], lambda name: coalesce(json_type(row, '$.' || name), 'NULL') <> 'NULL') as asked_in
    from raw
), fields as (
    select *, list_at(row, '$.' || answer_names[1]) as answers, list_at(row, '$.' || score_names[1]) as numbers,
           case when len(asked_in) > 0 then said_at(row, '$.' || asked_in[1], 'user') end as prompt,
           side_at(row, '$.chosen') as cm, side_at(row, '$.rejected') as rm, coalesce(cm[-1].content, text_at(row, '$.chosen')) as chosen, coalesce(rm[-1].content, text_at(row, '$.rejected')) as rejected
    from columns
), scored as (
    select *, list_transform(answers, lambda answer: text_at(answer, '$')) as texts, list_transform(numbers, lambda number: number_at(number, '$')) as scores,
           list_filter(numbers, lambda number: json_type(number) <> 'NULL' and number_at(number, '$') is null)[1] as no_number,
           chosen is not null and rejected is not null as has_pair, ratings_at(row) as ratings
    from fields
)
select n, with_system(system, prompt) as messages,
       list_transform(range(len(texts)), lambda i: {text: texts[i + 1],
           score: case when not has_pair then scores[i + 1] when texts[i + 1] = chosen then 1.0 when texts[i + 1] = rejected then 0.0 end,
           rating: case when has_pair then scores[i + 1] end}) as responses,
       tools_at(row) as tools,
       reference_at(row) as reference,
       coalesce(case
           when len(answer_names) = 0 or len(score_names) = 0 then 'missing_or_mistyped: the row has no list of answers (responses, generations, completions, all_generated_responses) with a list of scores (rewards, scores, ratings, all_rm_scores)'
           when len(list_filter(texts, lambda text: text is null)) > 0 then 'missing_or_mistyped: ' || answer_names[1] || ' is ' || kind_of(row, '$.' || answer_names[1]) || '; expected a list of strings'
           when len(asked_in) = 0 then 'missing_or_mistyped: the row has neither prompt nor instruction nor messages'
           when len(answer_names) > 1 then 'two_lists: ' || array_to_string(answer_names, ' and ') || ' are both lists of answers; leave one out: prompts.ignore = ["' || answer_names[2] || '"]'
           when len(score_names) > 1 then 'two_lists: ' || array_to_string(score_names, ' and ') || ' are both lists of scores; leave one out: prompts.ignore = ["' || score_names[2] || '"]'
           when len(texts) = 0 then 'empty_response: ' || answer_names[1] || ' is an empty list'
           when len(texts) <> len(scores) then 'lengths_differ: ' || answer_names[1] || ' has ' || len(texts) || ' values and ' || score_names[1] || ' has ' || len(scores) || '; nobody can say whose score is missing'
           when no_number is not null then 'bad_rating: ' || score_names[1] || ' holds ' || kind_of(no_number, '$') || '; expected numbers or null' end,
           case when asked_in[1] is not null then side_problem(row, asked_in[1], text_at(row, '$.' || asked_in[1]), prompt) end, optional_text_problem(row, 'system'), reference_problem(row), ratings_problem(row), case
           when len(list_filter(asked_in, lambda name: not coalesce(repeats(said_at(row, '$.' || name, 'user'), prompt, a_turn('assistant', chosen)), false))) > 0
               then 'two_prompts: ' || array_to_string(asked_in, ' and ') || ' are both there and differ; leave one out: prompts.ignore = ["' || asked_in[2] || '"]'
           when len(cm) > 1 and not (begins_with(cm[:-2], prompt) or says_the_same(prompt, cm[:-2])) or len(rm) > 1 and not (begins_with(rm[:-2], prompt) or says_the_same(prompt, rm[:-2]))
               then 'prompts_differ: chosen or rejected does not begin with the prompt; leave them out: prompts.ignore = ["chosen", "rejected"]'
           when (coalesce(json_type(row, '$.chosen'), 'NULL') <> 'NULL' and not coalesce(list_contains(texts, chosen), false)) or (coalesce(json_type(row, '$.rejected'), 'NULL') <> 'NULL' and not coalesce(list_contains(texts, rejected), false))
               then 'contradiction: chosen or rejected is none of ' || answer_names[1] || '; leave them out: prompts.ignore = ["chosen", "rejected"]; or the lists'
           when has_pair and chosen = rejected then 'same_responses: chosen and rejected are the same text'
           when ratings[1] <> scores[list_position(texts, chosen)] or ratings[2] <> scores[list_position(texts, rejected)]
               then 'two_ratings: the numbers of chosen and rejected are others than those of ' || score_names[1] || '; leave one out: prompts.ignore = ["' || score_names[1] || '"] or the numbers beside the pair'
       end) as problem
from scored
