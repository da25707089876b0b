//! The template engine: Jinja as transformers sets it up, with bounds on what a template can do.
//!
//! A template comes with a model, so it is somebody else's program. It has no files, no other
//! templates and no clock but `strftime_now`. The engine's fuel pays for instructions and for bytes,
//! those of the output included. What nests is bounded by the fuel too; since the engine recurses
//! over it, templates run on a thread whose stack is as deep as the fuel allows.

use super::{functions, python};
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, State, UndefinedBehavior, Value};
use std::any::Any;
use std::thread;

/// The longest template, in bytes. The longest that are known have some 30 KiB.
pub(super) const MAX_SOURCE_BYTES: usize = 128 << 10;

/// Macros in macros and loops in loops, in the units of the engine; a macro costs some ten.
const RECURSION_LIMIT: usize = 300;

/// The most that is spent on one conversation, enough for one of 5 MiB; it keeps the stack below 1 GiB.
const MAX_FUEL: u64 = 1_600_000;

/// Bytes of stack for one level of what nests, rounded up from 480 that were measured.
const LEVEL_BYTES: usize = 640;

/// Stack for the engine's own recursion, up to its limit.
const BASE_STACK_BYTES: usize = 4 << 20;

/// The name that the template has in its environment.
const NAME: &str = "chat_template";

/// Compiles a template; on failure says what is wrong with it.
pub(super) fn compile(source: &str) -> Result<Environment<'static>, String> {
    if source.len() > MAX_SOURCE_BYTES {
        return Err(format!(
            "the chat template has {} bytes; expected at most {MAX_SOURCE_BYTES}",
            source.len()
        ));
    }
    // Each byte can nest an expression one level deeper.
    on_deep_stack(source.len(), || {
        let mut environment = environment()?;
        environment.add_template_owned(NAME, without_generation_tags(source))?;
        Ok(environment)
    })
}

/// Renders the template of an environment; on failure says why.
pub(super) fn render(
    environment: &Environment<'static>,
    variables: &serde_json::Map<String, serde_json::Value>,
) -> Result<String, String> {
    render_with(fuel(variables), environment, variables)
}

fn render_with(
    fuel: u64,
    environment: &Environment<'static>,
    variables: &serde_json::Map<String, serde_json::Value>,
) -> Result<String, String> {
    let mut environment = environment.clone();
    environment.set_fuel(Some(fuel));
    let levels = usize::try_from(fuel).unwrap_or(usize::MAX);
    on_deep_stack(levels, || {
        let template = environment.get_template(NAME)?;
        template.render(minijinja::value::Serde(variables))
    })
}

/// What a template may spend: much more than templates in use need for these variables.
///
/// One unit is an instruction or 64 bytes, so a text may be copied some thirty times.
fn fuel(variables: &serde_json::Map<String, serde_json::Value>) -> u64 {
    fn weigh(value: &serde_json::Value) -> u64 {
        use serde_json::Value::{Array, Object, String as Text};
        match value {
            Text(text) => 200 + text.len() as u64 / 2,
            Array(items) => 200 + items.iter().map(weigh).sum::<u64>(),
            Object(fields) => {
                let keys: usize = fields.keys().map(String::len).sum();
                200 + keys as u64 / 2 + fields.values().map(weigh).sum::<u64>()
            }
            _ => 200,
        }
    }
    (50_000 + variables.values().map(weigh).sum::<u64>()).min(MAX_FUEL)
}

/// Runs `work` on a thread with a stack for that many levels.
fn on_deep_stack<T: Send>(
    levels: usize,
    work: impl FnOnce() -> Result<T, Error> + Send,
) -> Result<T, String> {
    let stack = levels
        .saturating_mul(LEVEL_BYTES)
        .saturating_add(BASE_STACK_BYTES);
    thread::scope(|scope| {
        thread::Builder::new()
            .name("chat template".to_owned())
            .stack_size(stack)
            .spawn_scoped(scope, work)
            .map_err(|error| format!("no thread for {stack} bytes of stack: {error}"))?
            .join()
            .map_err(|panic| format!("the engine failed: {}", panic_message(panic.as_ref())))?
            .map_err(|error| message(&error))
    })
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let formatted = panic.downcast_ref::<String>().map(String::as_str);
    formatted
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("unknown failure")
}

/// What went wrong, and in which line of the template.
fn message(error: &Error) -> String {
    let reason = match (error.kind(), error.detail()) {
        (ErrorKind::OutOfFuel, _) => {
            "the template does or writes too much for these messages".to_owned()
        }
        (_, Some(detail)) => detail.to_owned(),
        (kind, None) => kind.to_string(),
    };
    match error.line() {
        Some(line) => format!("{reason} (line {line})"),
        None => reason,
    }
}

fn environment() -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .build()?;
    environment.set_syntax(syntax);
    environment.set_recursion_limit(RECURSION_LIMIT);
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_formatter(|out, state, value| {
        let text = python::to_text(state, value)?;
        Ok(out.write_str(&text)?)
    });
    environment.set_unknown_method_callback(functions::method);
    environment.add_filter("tojson", functions::tojson);
    environment.add_filter("indent", functions::indent);
    environment.add_filter("string", |state: &State, value: Value| {
        python::to_text(state, &value).map(|text| Value::from(text.as_ref()))
    });
    environment.add_function("raise_exception", functions::raise_exception);
    environment.add_function("strftime_now", functions::strftime_now);
    // These show the engine's own state and write without a bound.
    environment.remove_global("debug");
    environment.remove_filter("pprint");
    Ok(environment)
}

/// Makes `{% generation %}` blocks, which mark what an assistant wrote, plain blocks: the text is the
/// same.
fn without_generation_tags(source: &str) -> String {
    let mut output = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        output.push_str(before);
        // Behind the opening mark, whose `%` may be followed by a `}`.
        let Some(end) = tag[2..].find("%}").map(|end| end + 4) else {
            rest = tag;
            break;
        };
        let name = tag[2..end - 2].trim_matches(|c: char| c.is_whitespace() || "+-".contains(c));
        let plain = match name {
            "generation" => tag[..end].replacen(name, "with", 1),
            "endgeneration" => tag[..end].replacen(name, "endwith", 1),
            _ => {
                output.push_str("{%");
                rest = &tag[2..];
                continue;
            }
        };
        output.push_str(&plain);
        rest = &tag[end..];
    }
    output.push_str(rest);
    output
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Map, json};
    use std::fs;
    use std::time::Instant;

    fn run(source: &str) -> Result<String, String> {
        render(&compile(source)?, &Map::new())
    }

    /// Puts a value that holds itself `times` over, two times in each level, into `ns.a`.
    fn nested(times: usize, container: &str) -> String {
        format!(
            "{{% set ns = namespace(a=[1]) %}}\
             {{% for i in range({times}) %}}{{% set ns.a = {container} %}}{{% endfor %}}"
        )
    }

    #[test]
    fn hostile_templates_end_with_an_error() {
        let doubled = nested(60, "[ns.a, ns.a]");
        let templates = [
            "{{ 'a' * 10**9 }}",
            "{{ [1] * 10**9 }}",
            "{{ range(10**9) }}",
            "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
            "{% set ns = namespace(s='ab') %}\
             {% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
            "{% set ns = namespace(s='ab') %}\
             {% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
            "{% set ns = namespace(s='ab') %}\
             {% for i in range(60) %}{% set ns.s = ns.s.replace('a', 'aaaa') %}{% endfor %}",
            "{% for i in range(99999) %}{{ 'a' * 9999 }}{% endfor %}",
            "{% for i in range(99999) %}{% set x %}{{ 'a' * 9999 }}{% endset %}{% endfor %}",
            "{{ '%9999999999d' | format(1) }}",
            "{{ '%.9999999999f' | format(1) }}",
            "{{ '{:>9999999999}'.format(1) }}",
            "{{ ('{0}' * 99999).format('a' * 99999) }}",
            "{{ ('{x}' * 99999).format(x='a' * 99999) }}",
            "{{ ('b' * 99999).join('a' * 99999) }}",
            "{{ ('a' * 99999) | list | join('b' * 99999) }}",
            "{{ ('a\\n' * 99999) | indent('b' * 99999) }}",
            "{{ ([[[1]]] * 99999) | tojson(indent='b' * 99999) }}",
            "{{ strftime_now('%c' * 9999) }}",
            "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
            "{% macro f(x) %}{{ f([x, x]) }}{% endmacro %}{{ f(1) }}",
            "{% for x in [[1]] recursive %}{{ loop([x]) }}{% endfor %}",
            "{{ debug() }}",
            &format!("{doubled}{{{{ ns.a }}}}"),
            &format!("{doubled}{{{{ ns.a | tojson }}}}"),
            &format!("{doubled}{{{{ ns.a | string }}}}"),
            &format!("{doubled}{{{{ ''.join(ns.a) }}}}"),
            &format!("{doubled}{{{{ '{{}}'.format(ns.a) }}}}"),
            &"x".repeat(MAX_SOURCE_BYTES + 1),
            &format!("{{{{ {}1{} }}}}", "[".repeat(9999), "]".repeat(9999)),
            &format!(
                "{}{}",
                "{% if 1 %}".repeat(9999),
                "{% endif %}".repeat(9999)
            ),
            "{% include 'x' %}",
            "{% import 'x' as x %}",
        ];
        for source in templates {
            let start = Instant::now();
            let result = run(source);
            let source: String = source.chars().take(200).collect();
            let seconds = start.elapsed().as_secs_f64();
            assert!(seconds < 5.0, "{source}: {seconds} s");
            assert!(result.is_err(), "{source}: {:?}", result.map(|x| x.len()));
        }
    }

    /// The engine recurses over each of these: dropping, printing, comparing, compiling.
    #[test]
    fn what_nests_deeply_does_not_overflow_the_stack() {
        for container in ["[ns.a]", "{'a': ns.a}", "(ns.a, 1)", "[[[[[[[[ns.a]]]]]]]]"] {
            let deep = nested(99_999, container);
            assert!(run(&deep).is_err(), "{container}");
            let deep = nested(1_000, container);
            for rest in ["", "{{ ns.a }}", "{{ ns.a | tojson }}"] {
                let result = run(&format!("{deep}{rest}"));
                assert_eq!(result.is_ok(), rest.is_empty(), "{container}{rest}");
            }
            for rest in [
                "{{ ns.a == [ns.a] }}",
                "{{ ns.a ~ '' }}",
                "{{ {'x': ns.a} | length }}",
            ] {
                assert!(run(&format!("{deep}{rest}")).is_ok(), "{container}{rest}");
            }
        }
        let length = MAX_SOURCE_BYTES - 100;
        for (before, level, after) in [
            ("{{ ", "-", "1 }}"),
            ("{{ ", "not ", "1 }}"),
            ("{{ 1", "+1", " }}"),
            ("{{ x", ".a", " }}"),
            ("{{ x", "()", " }}"),
            ("{{ 1", "|e", " }}"),
            ("{{ 1", " if 1 else 1", " }}"),
            ("{% if 1 %}", "{%elif 1%}", "{% endif %}"),
        ] {
            let levels = level.repeat(length / level.len());
            let _ = run(&format!("{before}{levels}{after}"));
        }
    }

    #[test]
    fn conversations_need_little_of_the_fuel() {
        let text = fs::read_to_string("tests/fixtures/chat/conversations.json").unwrap();
        let mut reference: serde_json::Value = serde_json::from_str(&text).unwrap();
        let long = "word & <|im_end|>\n".repeat(100_000);
        let mut cases = reference["cases"].as_array_mut().unwrap().clone();
        cases.extend([
            json!({"messages": [{"role": "user", "content": &long}], "options": {}}),
            json!({"messages": [{"role": "assistant", "content": &long}], "options": {}}),
            json!({"messages": vec![json!({"role": "user", "content": "x"}); 2000], "options": {}}),
            json!({"messages": vec![json!({"role": "assistant", "content": "x",
                "tool_calls": [{"function": {"name": "f", "arguments": {"a": [1, 2, 3]}}}]}); 500],
                "options": {}}),
        ]);
        for name in ["qwen2.5", "qwen3", "smollm2"] {
            let path = format!("tests/fixtures/chat/{name}.jinja");
            let environment = compile(&fs::read_to_string(path).unwrap()).unwrap();
            for case in &cases {
                let mut variables = case["options"].as_object().unwrap().clone();
                variables.insert("messages".to_owned(), case["messages"].clone());
                let fuel = fuel(&variables) / 4;
                let result = render_with(fuel, &environment, &variables);
                assert!(result.is_ok(), "{name}, {}: {result:?}", case["name"]);
            }
        }
    }

    #[test]
    fn an_error_has_its_reason_and_line() {
        let error = run("\n\n{{ raise_exception('roles must alternate') }}").unwrap_err();
        assert_eq!(error, "roles must alternate (line 3)");
        let error = run("{{ x.y }}").unwrap_err();
        assert!(
            error.contains('x') && error.contains("undefined"),
            "{error}"
        );
        let error = run("a\n{% if %}").unwrap_err();
        assert!(error.contains("(line 2)"), "{error}");
    }

    #[test]
    fn generation_tags_are_plain_blocks() {
        for (source, text) in [
            ("a {% generation %} b {% endgeneration %} c", "a  b  c"),
            ("a {%- generation -%} b {%- endgeneration -%} c", "abc"),
            ("{%generation%}x{%endgeneration%}{# {% #}", "x"),
            ("{% set generation = 1 %}{{ generation }}", "1"),
            ("{% if true %}x{% endif %}", "x"),
        ] {
            assert_eq!(run(source).unwrap(), text, "{source}");
        }
        assert!(run("{% generation %}").is_err());
        assert!(run("{% generation").is_err());
    }

    #[test]
    fn the_time_is_formatted() {
        let year = run("{{ strftime_now('%Y') }}").unwrap();
        assert!(year.parse::<u32>().unwrap() > 2024);
        assert_eq!(run("{{ strftime_now('%%x') }}").unwrap(), "%x");
    }
}
