-- pairs: two of each prompt's responses drawn at random, and the chosen one by chance, as Bradley and Terry have it: the odds are exp(gap between the scores / label_temperature); label_noise is the share of pairs then turned round
-- needs: scores
with rated as (
    select prompt_id, min(response_id) as response_id, text, avg(score) as score
    from responses left join (select * from scores where scorer = coalesce(getvariable('scorer'), 'rating')) using (prompt_id, response_id)
    where source <> 'rewritten'
    group by prompt_id, text
), placed as (
    select *, row_number() over (partition by prompt_id order by md5(response_id || coalesce(getvariable('seed'), 0)::varchar)) as place
    from rated where score is not null
), two as (
    select a.prompt_id, a.response_id as one, b.response_id as other, a.score as one_score, b.score as other_score,
           -- Numbers from 0 to 1 that are always the same for a seed.
           md5_number_lower('choice' || a.response_id || b.response_id || coalesce(getvariable('seed'), 0)::varchar) / 18446744073709551616.0 as chance,
           md5_number_lower('noise' || a.response_id || b.response_id || coalesce(getvariable('seed'), 0)::varchar) / 18446744073709551616.0 as noise
    from placed a join placed b on b.prompt_id = a.prompt_id and a.place = 1 and b.place = 2
), chosen as (
    select *, (case when coalesce(getvariable('label_temperature'), 1.0) = 0 then one_score > other_score
                   else chance < 1 / (1 + exp(greatest(-700, least(700, (other_score - one_score) / coalesce(getvariable('label_temperature'), 1.0))))) end)
              <> (noise < coalesce(getvariable('label_noise'), 0.0)) as first
    from two
)
select prompt_id,
       case when first then one else other end as chosen_response_id,
       case when first then other else one end as rejected_response_id,
       case when first then one_score else other_score end as chosen_score,
       case when first then other_score else one_score end as rejected_score,
       case when coalesce(getvariable('label_temperature'), 1.0) = 0 and one_score = other_score then 'tie' end as skipped
from chosen
union all by name
select prompt_id, case when count(score) < 2 then 'no_score' else 'same_text' end as skipped
from responses left join (select * from scores where scorer = coalesce(getvariable('scorer'), 'rating')) using (prompt_id, response_id)
where source <> 'rewritten' and prompt_id not in (select prompt_id from two)
group by prompt_id
