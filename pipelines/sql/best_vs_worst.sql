-- pairs: of each prompt's responses the best rated against the worst; prompts whose responses are all rated alike fall out
-- needs: scores
with rated as (
    select prompt_id, response_id, avg(score) as score
    from responses left join (select * from scores where scorer = coalesce(getvariable('scorer'), 'rating')) using (prompt_id, response_id)
    where source <> 'rewritten'
    group by all
)
select prompt_id,
       arg_max(response_id, (score, response_id)) filter (score is not null) as chosen_response_id,
       arg_min(response_id, (score, response_id)) filter (score is not null) as rejected_response_id,
       max(score) as chosen_score,
       min(score) as rejected_score,
       case when count(score) < 2 then 'no_score' when max(score) = min(score) then 'tie' end as skipped
from rated
group by prompt_id
