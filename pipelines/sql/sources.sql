-- query: what was made: responses by source, how long, how many ended by themselves, and how many are right where [check] knows
with truth as (select response_id, avg(score) as truth from scores where scorer = 'check' group by all)
select source, count(*) as responses, count(distinct prompt_id) as prompts, round(avg(length(text)), 3) as letters,
       round(avg((finish_reason = 'stop')::int), 3) as finished, round(avg(truth), 3) as correct
from responses left join truth using (response_id)
group by source order by source
