-- pairs: a rewrite against the response it mends (BMC); where the rewrite cannot serve, the two it came from, with source 'fallback'
-- needs: rewrite
with rated as (
    select response_id, avg(score) as score from scores where scorer = coalesce(getvariable('scorer'), 'rating') group by all
)
select responses.prompt_id as prompt_id,
       case when fallback is null then responses.response_id else reference_id end as chosen_response_id,
       parent_id as rejected_response_id,
       c.score as chosen_score,
       r.score as rejected_score,
       case when fallback is not null then 'fallback' end as source
from responses
left join rated c on c.response_id = case when fallback is null then responses.response_id else reference_id end
left join rated r on r.response_id = parent_id
where responses.source = 'rewritten'
