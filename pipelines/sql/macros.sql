-- macros: what the formats' SQL is written with; a row is JSON, and a value of another type than asked for is null, never converted
create macro text_at(row, path) as case when json_type(row, path) = 'VARCHAR' then json_extract_string(row, path) end;
create macro finite(number) as case when isfinite(number) then number end;
create macro number_at(row, path) as finite(try_cast(json_extract_string(row, path) as double));
create macro list_at(row, path) as case when json_type(row, path) = 'ARRAY' then from_json(json_extract(row, path), '["JSON"]') end;
-- A content is a string, or a list of {type: text, text}, which are joined.
create macro is_text_part(part) as coalesce(text_at(part, '$.type') = 'text' and json_type(part, '$.text') = 'VARCHAR', false);
create macro parts_text(parts) as
    case when len(parts) > 0 and len(list_filter(parts, lambda part: not is_text_part(part))) = 0
         then array_to_string(list_transform(parts, lambda part: json_extract_string(part, '$.text')), '') end;
create macro content_at(turn, path) as
    case json_type(turn, path) when 'VARCHAR' then json_extract_string(turn, path) when 'ARRAY' then parts_text(list_at(turn, path)) end;
-- How data sets spell the roles; any other spelling stays and is refused by its name.
create macro role_of(role) as
    coalesce(['user', 'assistant', 'assistant', 'assistant', 'system', lower(role), lower(role), lower(role), lower(role)][
        list_position(['human', 'gpt', 'bot', 'model', 'developer', 'user', 'assistant', 'system', 'tool'], lower(role))], role);
-- What a turn says beside role and content (tool calls, thoughts, whose result it is) as JSON, or null. Such a turn need not have a content.
create macro turn_at(turn) as
    case when list_has_any(json_keys(turn), ['tool_calls', 'reasoning_content', 'reasoning', 'thinking', 'tool_call_id', 'name']) then turn_in_full(turn::varchar) end;
create macro needs_content(turn) as coalesce(not regexp_matches(turn, '^\{"(reasoning_content|tool_calls|problem)"'), true);
create macro content_of(content, turn) as
    case when needs_content(turn) or coalesce(content::varchar, 'null') not in ('null', '[]') then content_at(content, '$') else '' end;
create macro messages_at(row, path) as
    list_transform(list_transform(list_at(row, path), lambda turn: {role: text_at(turn, '$.role'), content: json_extract(turn, '$.content'), turn: turn_at(turn)}),
                   lambda turn: {role: role_of(turn.role), content: content_of(turn.content, turn.turn), turn: turn.turn});
-- Turns {role, content} or, in ShareGPT's spelling, {from, value}. They are taken out first, since what a macro is given is planned anew wherever it names it.
create macro turns_of(items) as
    list_transform(list_transform(items, lambda turn: {role: coalesce(text_at(turn, '$.role'), text_at(turn, '$.from')),
                                                       content: coalesce(json_extract(turn, '$.content'), json_extract(turn, '$.value')), turn: turn_at(turn)}),
                   lambda turn: {role: role_of(turn.role), content: content_of(turn.content, turn.turn), turn: turn.turn});
-- An answer as turns: a list of them, or one alone.
create macro side_at(row, path) as
    turns_of(case json_type(row, path) when 'ARRAY' then from_json(json_extract(row, path), '["JSON"]') when 'OBJECT' then [json_extract(row, path)] end);
-- The tools that the model may call: a list of JSON schemas, or JSON as text.
create macro tools_at(row) as json_extract(row, '$.tools')::varchar;
-- Turns as they are compared: without white space around their texts.
create macro trimmed(turns) as list_transform(turns, lambda turn: {role: turn.role, content: trim(turn.content, e' \t\r\n'), turn: turn.turn});
-- A turn that is a text alone.
create macro a_turn(role, content) as {role: role, content: content, turn: null::varchar};
create macro stripped_end(text) as rtrim(text, e' \t\r\n');
create macro is_blank(text) as trim(coalesce(text, ''), e' \t\r\n') = '';
create macro hh_turns(dialogue) as
    list_transform(list_zip(regexp_extract_all(dialogue, '\n\n(Human|Assistant):', 1), regexp_split_to_array(dialogue, '\n\n(?:Human|Assistant):')[2:]),
                   lambda turn: {role: case turn[1] when 'Human' then 'user' else 'assistant' end, content: trim(turn[2], e' \t\r\n')});
-- What a value is, in words: "a list of 3 strings", "the number 7", "an object {from, value}", "missing".
create macro kind_of(row, path) as kind_in_words(json_extract(row, path));
-- Why a column is not the text or the turns that it must be: 'code: sentence', or null.
create macro text_problem(row, name) as
    case when coalesce(json_type(row, '$.' || name), 'MISSING') <> 'VARCHAR'
         then 'missing_or_mistyped: ' || name || ' is ' || kind_of(row, '$.' || name) || '; expected a string' end;
create macro optional_text_problem(row, name) as
    case when coalesce(json_type(row, '$.' || name), 'NULL') not in ('NULL', 'VARCHAR')
         then 'missing_or_mistyped: ' || name || ' is ' || kind_of(row, '$.' || name) || '; expected a string' end;
-- `turns`: what messages_at, turns_at or side_at makes of the column.
create macro turns_problem(row, name, turns, key, form) as
    case when coalesce(len(list_filter(turns, lambda turn: turn.content is null or turn.role is null)) > 0, true)
         then turns_in_words(json_extract(row, '$.' || name), name, key, form) end;
create macro side_problem(row, name, text, turns) as
    case when text is null then turns_problem(row, name, turns, 'content', 'role, content') end;
-- The right answer that a row brings for the judge: a text column of one of these names; several must say the same.
create macro reference_at(row) as
    coalesce(nullif(text_at(row, '$.reference'), ''), nullif(text_at(row, '$.reference_answer'), ''), nullif(text_at(row, '$.ground_truth'), ''), nullif(text_at(row, '$.solution'), ''));
create macro reference_problem(row) as
    case when list_has_any(json_keys(row), ['reference', 'reference_answer', 'ground_truth', 'solution']) then references_in_words(row) end;
-- What a column says as turns: a list of them, one alone, or a text, which is one turn of that role.
create macro said_at(row, path, role) as
    case json_type(row, path) when 'VARCHAR' then [a_turn(role, json_extract_string(row, path))] else side_at(row, path) end;
-- Several answers in one value: a list of texts, of dialogues, or of lone turns of the assistant. A text, or the turns of one dialogue, are one answer.
create macro are_answers(items) as
    len(list_filter(items, lambda item: json_type(item) not in ('VARCHAR', 'ARRAY'))) = 0
    or (len(items) > 1 and len(list_filter(items, lambda item: coalesce(role_of(coalesce(text_at(item, '$.role'), text_at(item, '$.from'))) <> 'assistant', true))) = 0);
create macro answers_at(row, path) as
    case when json_type(row, path) <> 'ARRAY' then [said_at(row, path, 'assistant')]
         when are_answers(list_at(row, path)) then list_transform(list_at(row, path), lambda item: said_at(item, '$', 'assistant'))
         else [side_at(row, path)] end;
-- One chosen turn against each of several rejected ones: a comparison for each.
create macro compared(chosen, rejected) as
    flatten(list_transform(range(len(rejected)), lambda i: [
        {text: chosen.content, score: 1.0, comparison: case when len(rejected) > 1 then i end, turn: chosen.turn},
        {text: rejected[i + 1].content, score: 0.0, comparison: case when len(rejected) > 1 then i end, turn: rejected[i + 1].turn}]));
create macro with_system(system, turns) as list_concat(case when is_blank(system) then [] else [a_turn('system', system)] end, turns);
-- Pairs of texts, as a history of questions and answers has them, as turns.
create macro history_turns(history) as
    flatten(list_transform(history, lambda pair: [a_turn('user', text_at(pair, '$[0]')), a_turn('assistant', text_at(pair, '$[1]'))]));
create macro history_problem(row) as
    case when coalesce(json_type(row, '$.history'), 'NULL') <> 'NULL'
              and coalesce(len(list_filter(list_at(row, '$.history'), lambda pair: text_at(pair, '$[0]') is null or text_at(pair, '$[1]') is null or json_array_length(pair) <> 2)) > 0, true)
         then 'missing_or_mistyped: history is ' || kind_of(row, '$.history') || '; expected a list of [question, answer]' end;
-- Turns without the system's.
create macro spoken(turns) as list_filter(turns, lambda turn: turn.role <> 'system');
-- Whether the turns before an answer are the prompt, with or without its system turn.
create macro begins_with(before, prompt) as list_contains([trimmed(prompt), spoken(trimmed(prompt))], trimmed(before));
-- Whether a prompt is a part of the turns before an answer: all but the system's, the first of the user's, or the last.
create macro says_the_same(prompt, before) as
    coalesce(trimmed(prompt) = spoken(trimmed(before))
             or (len(prompt) = 1 and prompt[1].role = 'user' and list_contains([spoken(trimmed(before))[1], trimmed(before)[-1]], trimmed(prompt)[1])), false);
-- The data's own numbers for chosen and rejected, [chosen, rejected], in columns such as score_chosen and rejected_rating (engine/side_ratings.py).
create macro has_ratings(row) as
    list_has_any(json_keys(row), ['score_chosen', 'score_rejected', 'chosen_score', 'rejected_score', 'rating_chosen', 'rating_rejected', 'chosen_rating', 'rejected_rating',
                                  'chosen-rating', 'rejected-rating', 'reward_chosen', 'reward_rejected', 'chosen_reward', 'rejected_reward']);
create macro ratings_at(row) as case when has_ratings(row) then side_ratings(row) end;
create macro ratings_problem(row) as case when has_ratings(row) then ratings_in_words(row) end;
-- Whether turns only say again what the prompt is, or the prompt and its answer, with or without the system's turn.
create macro repeats(turns, prompt, answer) as
    coalesce(list_contains([trimmed(prompt), spoken(trimmed(prompt))], trimmed(turns)) or list_contains(
        [trimmed(list_append(prompt, answer)), spoken(trimmed(list_append(prompt, answer)))], trimmed(turns)), false);
-- Answers in one list and their scores in another.
create macro answer_lists(row) as list_filter(['responses', 'generations', 'all_generated_responses', 'completions'], lambda name: json_type(row, '$.' || name) = 'ARRAY');
create macro score_lists(row) as list_filter(['rewards', 'scores', 'ratings', 'rating', 'all_rm_scores'], lambda name: json_type(row, '$.' || name) = 'ARRAY');
create macro has_scored_lists(row) as
    case when list_has_any(json_keys(row), ['responses', 'generations', 'all_generated_responses', 'completions']) then len(answer_lists(row)) > 0 and len(score_lists(row)) > 0 else false end;
-- Whether a row may have any of these numbers: asked once, since few have.
create macro has_numbers(row) as
    list_has_any(json_keys(row), ['score_chosen', 'score_rejected', 'chosen_score', 'rejected_score', 'rating_chosen', 'rating_rejected', 'chosen_rating', 'rejected_rating',
                                  'chosen-rating', 'rejected-rating', 'reward_chosen', 'reward_rejected', 'chosen_reward', 'rejected_reward',
                                  'rewards', 'scores', 'ratings', 'rating', 'all_rm_scores']);
