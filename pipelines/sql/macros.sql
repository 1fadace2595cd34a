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
create macro messages_at(row, path) as
    list_transform(list_at(row, path), lambda turn: {role: text_at(turn, '$.role'), content: content_at(turn, '$.content')});
create macro sharegpt_at(row, path) as
    list_transform(list_at(row, path), lambda turn: {
        role: case text_at(turn, '$.from') when 'human' then 'user' when 'user' then 'user' when 'gpt' then 'assistant' when 'assistant' then 'assistant' when 'system' then 'system' end,
        content: content_at(turn, '$.value')});
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
-- `turns`: what messages_at or sharegpt_at makes of the column.
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
