-- query: pairs in which the reference disagrees most with the preference, by log-prob a token: read them before you train on them
-- param: limit = 20
select pair_id, ref_chosen_logps / chosen_length as chosen_nat_per_token, ref_rejected_logps / rejected_length as rejected_nat_per_token, prompt, chosen, rejected
from pairs order by rejected_nat_per_token - chosen_nat_per_token desc, pair_id limit $limit
