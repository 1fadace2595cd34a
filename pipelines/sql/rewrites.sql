-- query: what came of the rewrites: how far from the draft (in words, and as a share of the reference's distance), how many are right where [check] knows
with truth as (select response_id, avg(score) as truth from scores where scorer = 'check' group by all)
select coalesce(fallback, 'used') as outcome, count(*) as rewrites, round(avg(edit_to_parent), 3) as to_draft, round(avg(edit_to_reference), 3) as to_reference,
       round(avg(edit_between), 3) as draft_to_reference, round(avg(edit_to_parent) / nullif(avg(edit_between), 0), 3) as share, round(avg(length_ratio), 3) as length_ratio,
       round(avg(p.truth), 3) as drafts_right, round(avg(n.truth), 3) as rewrites_right
from responses
left join truth n using (response_id)
left join truth p on p.response_id = parent_id
where source = 'rewritten'
group by outcome order by rewrites desc
