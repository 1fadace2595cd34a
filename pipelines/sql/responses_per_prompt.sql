-- query: how many responses the prompts have
select responses, count(*) as prompts from (select prompt_id, count(*) as responses from responses group by prompt_id) group by responses order by responses
