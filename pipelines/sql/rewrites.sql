-- query: what came of the rewrites: how far from the draft (in words, and as a share of the reference's distance), how many are right where [check] knows
with truth as (select response_id, avg(score) as truth from scores where scorer = 'check' group by all)
select coalesce(fallback, 'used') as outcome, count(*) as rewrites, avg(edit_to_parent) as to_draft, avg(edit_to_reference) as to_reference,
       avg(edit_between) as draft_to_reference, avg(edit_to_parent) / nullif(avg(edit_between), 0) as share, avg(length_ratio) as length_ratio,
       avg(p.truth) as drafts_right, avg(n.truth) as rewrites_right
from responses
left join truth n using (response_id)
left join truth p on p.response_id = parent_id
where source = 'rewritten'
group by outcome order by rewrites desc
