-- format: Alpaca ranking (LLaMA-Factory): instruction and perhaps input, system and history [[question, answer], …]; chosen and rejected as texts, output as [better, worse], or output as the better text and rejected_response (ms-swift)
-- marked by: instruction
-- reads: instruction, input, chosen, rejected, output, rejected_response, system, history, tools
-- reads: reference, reference_answer, ground_truth, solution, score_chosen, score_rejected, chosen_score, rejected_score, rating_chosen, rating_rejected, chosen_rating, rejected_rating, chosen-rating, rejected-rating, reward_chosen, reward_rejected, chosen_reward, rejected_reward
-- optional: input, system, history, reference, reference_answer, ground_truth, solution, score_chosen, score_rejected, chosen_score, rejected_score, rating_chosen, rating_rejected, chosen_rating, rejected_rating, chosen-rating, rejected-rating, reward_chosen, reward_rejected, chosen_reward, rejected_reward
-- The prompt is the instruction and, on a line of its own, the input, as LLaMA-Factory joins them.
with columns as (
    select n, row, text_at(row, '$.instruction') as instruction, text_at(row, '$.input') as input, text_at(row, '$.system') as system, ratings_at(row) as ratings,
           lower(trim(coalesce(json_extract_string(row, '$.rejected_response'), ''), e' \t\r\n')) not in ('', '[]', '{}', 'null', 'none', 'nan') as has_response,
           has_response and json_type(row, '$.output') = 'VARCHAR' as in_response, coalesce(json_type(row, '$.output'), 'NULL') <> 'NULL' and not in_response as in_output, coalesce(list_at(row, '$.history'), []) as history
    from raw
), fields as (
    select *, case when in_response then text_at(row, '$.output') when in_output then text_at(row, '$.output[0]') else text_at(row, '$.chosen') end as chosen,
           case when in_response then text_at(row, '$.rejected_response') when in_output then text_at(row, '$.output[1]') else text_at(row, '$.rejected') end as rejected
    from columns
)
select n, with_system(system, list_append(history_turns(history), a_turn('user', case when is_blank(input) then instruction when is_blank(instruction) then input else instruction || e'\n' || input end))) as messages,
       [{text: chosen, score: 1.0, rating: ratings[1]}, {text: rejected, score: 0.0, rating: ratings[2]}] as responses,
       tools_at(row) as tools,
       reference_at(row) as reference,
       coalesce(text_problem(row, 'instruction'), optional_text_problem(row, 'input'), case
           when coalesce(json_type(row, '$.prompt'), 'NULL') <> 'NULL' or coalesce(json_type(row, '$.messages'), 'NULL') <> 'NULL' then 'missing_or_mistyped: the row has prompt or messages as well: this is another format'
           when has_response and (not in_response or list_has_any(json_keys(row), ['chosen', 'rejected'])) then 'missing_or_mistyped: rejected_response is read beside output as a text, without chosen and rejected; output is ' || kind_of(row, '$.output') || '; leave one out: prompts.ignore = ["rejected_response"]'
           when in_output and list_has_any(json_keys(row), ['chosen', 'rejected']) then 'missing_or_mistyped: output stands beside chosen and rejected; leave one out: prompts.ignore = ["output"]'
           when in_output and (json_array_length(row, '$.output') <> 2 or chosen is null or rejected is null or json_type(row, '$.output') <> 'ARRAY')
               then 'missing_or_mistyped: output is ' || kind_of(row, '$.output') || '; expected a list of two texts, the better one first' end,
           case when in_response then text_problem(row, 'rejected_response') when not in_output then coalesce(text_problem(row, 'chosen'), text_problem(row, 'rejected')) end,
           optional_text_problem(row, 'system'), history_problem(row), reference_problem(row), ratings_problem(row)) as problem
from fields
