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
create macro item_kind(type, one) as
    case type when 'VARCHAR' then 'string' when 'OBJECT' then 'object' when 'ARRAY' then 'list' when 'BOOLEAN' then 'boolean' when 'NULL' then 'null' else 'number' end
    || case when one then '' else 's' end;
create macro list_kind(types) as
    case when len(types) = 0 then 'an empty list'
         when len(list_distinct(types)) > 1 then 'a list of ' || len(types) || ' values of several kinds'
         else 'a list of ' || len(types) || ' ' || item_kind(types[1], len(types) = 1) end;
create macro kind_of(row, path) as
    case coalesce(json_type(row, path), 'MISSING')
         when 'MISSING' then 'missing' when 'NULL' then 'null' when 'VARCHAR' then 'a string' when 'BOOLEAN' then json_extract_string(row, path)
         when 'OBJECT' then 'an object {' || array_to_string(json_keys(row, path)[:6], ', ') || '}'
         when 'ARRAY' then list_kind(list_transform(list_at(row, path), lambda item: json_type(item)))
         else 'the number ' || json_extract_string(row, path) end;
-- Why a column is not the text or the turns that it must be: 'code: sentence', or null.
create macro text_problem(row, name) as
    case when coalesce(json_type(row, '$.' || name), 'MISSING') <> 'VARCHAR'
         then 'missing_or_mistyped: ' || name || ' is ' || kind_of(row, '$.' || name) || '; expected a string' end;
create macro optional_text_problem(row, name) as
    case when coalesce(json_type(row, '$.' || name), 'NULL') <> 'NULL' then text_problem(row, name) end;
create macro content_problem(turn, name, key, turn_keys) as
    case when json_type(turn) <> 'OBJECT' then 'missing_or_mistyped: ' || name || ' has a turn that is no object {' || turn_keys || '}'
         when json_type(turn, '$.' || key) = 'ARRAY' and json_array_length(turn, '$.' || key) > 0
             then 'content_part: ' || name || ' has a turn whose ' || key || ' has a part that is no text, but of type '
                  || list_transform(list_filter(list_at(turn, '$.' || key), lambda part: not is_text_part(part)), lambda part: coalesce(text_at(part, '$.type'), kind_of(part, '$')))[1]
                  || '; only text is read'
         else 'missing_or_mistyped: ' || name || ' has a turn whose ' || key || ' is ' || kind_of(turn, '$.' || key) || '; a turn is {' || turn_keys || '}, this one is ' || kind_of(turn, '$') end;
create macro turns_problem(row, name, key, turn_keys) as
    list_transform(list_filter(list_at(row, '$.' || name), lambda turn: content_at(turn, '$.' || key) is null), lambda turn: content_problem(turn, name, key, turn_keys))[1];
create macro side_problem(row, name) as
    case when json_type(row, '$.' || name) = 'VARCHAR' then null
         when json_type(row, '$.' || name) = 'ARRAY'
              and len(list_filter(list_at(row, '$.' || name), lambda turn: json_type(turn) <> 'OBJECT')) = 0 then turns_problem(row, name, 'content', 'role, content')
         else 'missing_or_mistyped: ' || name || ' is ' || kind_of(row, '$.' || name) || '; expected a string or a list of turns {role, content}' end;
-- The right answer that a row brings for the judge: a text column of one of these names; several must say the same.
create macro references_at(row) as
    list_distinct(list_filter([text_at(row, '$.reference'), text_at(row, '$.reference_answer'), text_at(row, '$.ground_truth'), text_at(row, '$.solution')],
                              lambda text: trim(coalesce(text, '')) <> ''));
create macro reference_problem(row) as
    coalesce(optional_text_problem(row, 'reference'), optional_text_problem(row, 'reference_answer'),
             optional_text_problem(row, 'ground_truth'), optional_text_problem(row, 'solution'),
             case when len(references_at(row)) > 1
                  then 'two_references: of the columns reference, reference_answer, ground_truth and solution two say different things; keep one and name the other in prompts.ignore' end);
