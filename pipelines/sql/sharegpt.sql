-- format: ShareGPT turns: conversations as a list of {from, value}, chosen and rejected as one such turn each
-- marked by: conversations
-- reads: conversations[turn from value], chosen[turn from value], rejected[turn from value], tools, system
-- reads: score_chosen, score_rejected, chosen_score, rejected_score, rating_chosen, rating_rejected, chosen_rating, rejected_rating, chosen-rating, rejected-rating, reward_chosen, reward_rejected, chosen_reward, rejected_reward
-- optional: system, score_chosen, score_rejected, chosen_score, rejected_score, rating_chosen, rating_rejected, chosen_rating, rejected_rating, chosen-rating, rejected-rating, reward_chosen, reward_rejected, chosen_reward, rejected_reward
-- A turn may be {role, content} as well.
with fields as (
    select n, row, ratings_at(row) as ratings, turns_of(list_at(row, '$.conversations')) as turns, text_at(row, '$.system') as system, side_at(row, '$.chosen') as cm, side_at(row, '$.rejected') as rm,
           coalesce(text_at(row, '$.chosen'), cm[1].content) as chosen,
           coalesce(text_at(row, '$.rejected'), rm[1].content) as rejected,
           coalesce(cm[1].role, 'assistant') as chosen_from, coalesce(rm[1].role, 'assistant') as rejected_from,
           -- A tool speaks only where one was called.
           coalesce(len(list_filter(turns, lambda turn: contains(turn.turn, '"tool_calls"'))) > 0, false) as has_calls,
           list_filter(list_at(row, '$.conversations'), lambda turn: coalesce(role_of(coalesce(text_at(turn, '$.from'), text_at(turn, '$.role'))), '') not in ('user', 'assistant', 'system', case when has_calls then 'tool' else 'user' end))[1] as unknown
    from raw
)
select n,
       list_concat(case when system is not null and system <> '' then [{role: 'system', content: system}] else [] end, turns) as messages,
       [{text: chosen, score: 1.0, rating: ratings[1], turn: cm[1].turn}, {text: rejected, score: 0.0, rating: ratings[2], turn: rm[1].turn}] as responses,
       tools_at(row) as tools,
       case
           when turns is null then 'missing_or_mistyped: conversations is ' || kind_of(row, '$.conversations') || '; expected a list of turns {from, value}'
           when bad_role_in_words(coalesce(text_at(unknown, '$.from'), text_at(unknown, '$.role'))) is not null then bad_role_in_words(coalesce(text_at(unknown, '$.from'), text_at(unknown, '$.role')))
           when unknown is not null then 'bad_role: conversations has a turn whose from is ' || coalesce(text_at(unknown, '$.from'), text_at(unknown, '$.role'), kind_of(unknown, '$.from')) || '; expected human, gpt or system; a tool''s result (tool, observation, tool_response) only where a turn calls one'
           when len(list_filter(turns, lambda turn: turn.content is null)) > 0 then turns_in_words(json_extract(row, '$.conversations'), 'conversations', 'value', 'from, value')
           when chosen is null or json_array_length(row, '$.chosen') > 1 then 'missing_or_mistyped: chosen is ' || kind_of(row, '$.chosen') || '; expected one turn {from, value}'
           when rejected is null or json_array_length(row, '$.rejected') > 1 then 'missing_or_mistyped: rejected is ' || kind_of(row, '$.rejected') || '; expected one turn {from, value}'
           when chosen_from <> 'assistant' or rejected_from <> 'assistant'
               then 'no_response: chosen is from ' || chosen_from || ' and rejected from ' || rejected_from || '; expected two turns from gpt'
           else coalesce(optional_text_problem(row, 'system'), ratings_problem(row))
       end as problem
from fields
