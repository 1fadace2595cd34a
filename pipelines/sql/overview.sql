-- query: the pairs by split and source: how many, how long, and the reference's own preference
select split, source, count(*) as pairs, avg(prompt_length) as prompt_length, avg(chosen_length) as chosen_length, avg(rejected_length) as rejected_length,
       avg((ref_chosen_logps > ref_rejected_logps)::int) as ref_prefers_chosen
from pairs group by split, source order by split, source
