-- pairs: of each prompt's responses the best rated against one of the others, drawn at random but always the same for a seed
-- needs: scores
with rated as (
    select prompt_id, response_id, avg(score) as score
    from responses left join (select * from scores where scorer = coalesce(getvariable('scorer'), 'rating')) using (prompt_id, response_id)
    where source <> 'rewritten'
    group by all
), best as (
    select *, max(score) over (partition by prompt_id) as most from rated
)
select prompt_id,
       arg_max(response_id, (score, response_id)) filter (score is not null) as chosen_response_id,
       arg_min(response_id, md5(response_id || coalesce(getvariable('seed'), 0)::varchar)) filter (score < most) as rejected_response_id,
       max(score) as chosen_score,
       arg_min(score, md5(response_id || coalesce(getvariable('seed'), 0)::varchar)) filter (score < most) as rejected_score,
       case when count(score) < 2 then 'no_score' when max(score) = min(score) then 'tie' end as skipped
from best
group by prompt_id
