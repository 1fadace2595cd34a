-- query: the pairs by split and source: how many, how long, and the reference's own preference
select split, source, count(*) as pairs, round(avg(prompt_length), 3) as prompt_length, round(avg(chosen_length), 3) as chosen_length, round(avg(rejected_length), 3) as rejected_length,
       round(avg((ref_chosen_logps > ref_rejected_logps)::int), 3) as ref_prefers_chosen
from pairs group by split, source order by split, source
