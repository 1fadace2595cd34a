-- format: pairs of ms-swift in texts: query, response (the chosen one), rejected_response, and perhaps system and history [[question, answer], …]
-- marked by: query
-- reads: query, response, rejected_response, system, history, tools
-- reads: reference, reference_answer, ground_truth, solution, score_chosen, score_rejected, chosen_score, rejected_score, rating_chosen, rating_rejected, chosen_rating, rejected_rating, chosen-rating, rejected-rating, reward_chosen, reward_rejected, chosen_reward, rejected_reward
-- optional: system, history, reference, reference_answer, ground_truth, solution, score_chosen, score_rejected, chosen_score, rejected_score, rating_chosen, rating_rejected, chosen_rating, rejected_rating, chosen-rating, rejected-rating, reward_chosen, reward_rejected, chosen_reward, rejected_reward
with fields as (
    select n, row, text_at(row, '$.query') as query, text_at(row, '$.response') as chosen, text_at(row, '$.rejected_response') as rejected, text_at(row, '$.system') as system,
           coalesce(list_at(row, '$.history'), []) as history, ratings_at(row) as ratings
    from raw
)
select n, with_system(system, list_append(history_turns(history), a_turn('user', query))) as messages,
       [{text: chosen, score: 1.0, rating: ratings[1]}, {text: rejected, score: 0.0, rating: ratings[2]}] as responses,
       tools_at(row) as tools,
       reference_at(row) as reference,
       coalesce(text_problem(row, 'query'), text_problem(row, 'response'), text_problem(row, 'rejected_response'), optional_text_problem(row, 'system'), history_problem(row),
                reference_problem(row), ratings_problem(row), case
           when list_has_any(json_keys(row), ['prompt', 'messages', 'chosen', 'rejected']) then 'missing_or_mistyped: the row has prompt, messages, chosen or rejected as well: this is another format'
       end) as problem
from fields
