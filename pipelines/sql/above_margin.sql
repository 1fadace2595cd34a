-- pairs: every two responses of a prompt whose scores lie at least pairs.margin apart
-- needs: scores
with rated as (
    select prompt_id, response_id, avg(score) as score
    from responses left join (select * from scores where scorer = coalesce(getvariable('scorer'), 'rating')) using (prompt_id, response_id)
    where source <> 'rewritten'
    group by all
)
select prompt_id,
       case when a.score >= b.score then a.response_id else b.response_id end as chosen_response_id,
       case when a.score >= b.score then b.response_id else a.response_id end as rejected_response_id,
       greatest(a.score, b.score) as chosen_score,
       least(a.score, b.score) as rejected_score,
       case when a.score is null or b.score is null then 'no_score'
            when a.score = b.score then 'tie'
            when abs(a.score - b.score) < coalesce(getvariable('margin'), 0) then 'below_margin' end as skipped
from rated a join rated b using (prompt_id)
where a.response_id < b.response_id
