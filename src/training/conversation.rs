//! Conversations as samples: which tokens of the rendered text the assistant wrote.

use std::ops::Range;

use serde_json::Value;

use super::record::RowResult;
use super::{LossMask, Sample};
use crate::Result;
use crate::models::{ChatOptions, ChatTemplate, Tokenizer};

/// A conversation as its template writes it, and what is needed to find the turns in it.
///
/// A turn begins where the generation prompt ends and ends with its end-of-turn token; what the
/// template writes after that, such as a line break, belongs to no turn. Both places are found by
/// rendering parts of the conversation, since a template is a program that cannot be asked.
pub(super) struct Conversation<'a> {
    template: &'a ChatTemplate,
    tokenizer: &'a Tokenizer,
    messages: &'a [Value],
    options: ChatOptions,
    text: String,
    ids: Vec<u32>,
    /// The byte of the text at which each token begins.
    starts: Vec<usize>,
}

impl<'a> Conversation<'a> {
    pub(super) fn new(
        template: &'a ChatTemplate,
        tokenizer: &'a Tokenizer,
        messages: &'a [Value],
        tools: Option<Value>,
    ) -> Result<Self> {
        let mut options = ChatOptions {
            tools: tools.filter(|tools| !tools.is_null()),
            add_generation_prompt: false,
            ..ChatOptions::default()
        };
        let text = template.render(&Value::Array(messages.to_vec()), &options)?;
        let (ids, starts) = tokenizer.encode_with_starts(&text)?;
        options.add_generation_prompt = true;
        Ok(Self {
            template,
            tokenizer,
            messages,
            options,
            text,
            ids,
            starts,
        })
    }

    /// The sample that scores the turns from the message `first` on, cut or not.
    ///
    /// Turns that begin after `max_seq_length` tokens are not looked for: they would be cut off, and
    /// each costs a few renderings.
    pub(super) fn into_sample(
        self,
        first: usize,
        mask: LossMask,
        max_seq_length: usize,
    ) -> RowResult<Sample> {
        if mask == LossMask::None {
            return Ok(Sample::new(self.ids, 0));
        }
        let is_answer = |&index: &usize| self.messages[index]["role"] == "assistant";
        let mut turns: Vec<_> = (first..self.messages.len()).filter(is_answer).collect();
        if turns.is_empty() {
            return Err("no message is the assistant's; expected one to learn".to_owned());
        }
        if mask == LossMask::Prompt {
            turns.drain(..turns.len() - 1);
        }
        let mut scored: Vec<Range<usize>> = Vec::new();
        for index in turns {
            let after = scored.last().map_or(0, |turn| turn.end);
            let turn = self.turn(index, after).ok_or_else(|| {
                format!(
                    "cannot tell which part of the text is `messages[{index}]`, since the chat \
                     template writes it otherwise where it is the last one; score the whole text \
                     with the mask `none`, or give the turns up to this one as a row of their own"
                )
            })?;
            if turn.start >= max_seq_length {
                break;
            }
            // The first token is never scored.
            let turn = turn.start.max(1)..turn.end;
            if !turn.is_empty() {
                scored.push(turn);
            }
        }
        Ok(Sample {
            input_ids: self.ids,
            scored,
        })
    }

    /// The tokens of a message, none of which comes before the token `after`.
    fn turn(&self, index: usize, after: usize) -> Option<Range<usize>> {
        let start = self.start(index, after)?;
        let end = self.end(index, start)?;
        (after <= start && start < end).then_some(start..end)
    }

    /// The first token after the generation prompt.
    fn start(&self, index: usize, after: usize) -> Option<usize> {
        let history = &self.messages[..index];
        if let Some(prompt) = self.render(history, true) {
            if self.text.starts_with(&prompt) {
                return Some(self.token_at(prompt.len()));
            }
            let before = self.render(history, false)?;
            if self.text.starts_with(&before) {
                // The prompt goes on where the text does not, for example with an empty block of
                // reasoning.
                let prompt = self.tokenizer.encode(&prompt, false).ok()?;
                let equal = prompt.iter().zip(&self.ids).take_while(|(a, b)| a == b);
                return Some(equal.count().max(self.token_at(before.len())));
            }
        }
        // The template writes earlier messages otherwise where more follow. Then the turn begins
        // after the last prompt before its content.
        let history = match index {
            0 => self.messages,
            _ => history,
        };
        let prompt = self.render(history, true)?;
        let header = prompt.strip_prefix(&self.render(history, false)?)?;
        let from = self.starts.get(after).copied()?;
        let until = self.content_end(index)?;
        let at = self.text.get(from..until)?.rfind(header)?;
        (!header.is_empty()).then(|| self.token_at(from + at + header.len()))
    }

    /// The token after the one that ends a turn.
    fn end(&self, index: usize, start: usize) -> Option<usize> {
        let text = if index + 1 == self.messages.len() {
            self.text.clone()
        } else {
            self.render(&self.messages[..=index], false)?
        };
        if self.text.starts_with(&text) {
            let end = self.token_at(text.len());
            let last = self.last_mark(&self.ids[..end], &self.starts[..end], &text);
            return Some(
                last.filter(|&last| last >= start)
                    .map_or(end, |last| last + 1),
            );
        }
        // The template writes the turn otherwise where it is the last one, but ends it alike.
        let (ids, starts) = self.tokenizer.encode_with_starts(&text).ok()?;
        let mark = ids[self.last_mark(&ids, &starts, &text)?];
        let content_end = self.content_end(index).map_or(0, |end| self.token_at(end));
        let from = content_end.max(start);
        let rest = self.ids.get(from..)?;
        Some(from + rest.iter().position(|&id| id == mark)? + 1)
    }

    /// The last special token of a text, if only white space follows it.
    fn last_mark(&self, ids: &[u32], starts: &[usize], text: &str) -> Option<usize> {
        let last = ids.iter().rposition(|&id| self.tokenizer.is_special(id))?;
        let rest = match starts.get(last + 1) {
            Some(&start) => text.get(start..)?,
            None => "",
        };
        rest.trim().is_empty().then_some(last)
    }

    /// The byte at which the content of a message ends, before calls of tools and the end of the turn.
    fn content_end(&self, index: usize) -> Option<usize> {
        // A character of private use that the text does not have.
        let mark = ('\u{E000}'..'\u{F8FF}').find(|&mark| !self.text.contains(mark))?;
        let mut messages = self.messages.to_vec();
        append(&mut messages[index]["content"], mark)?;
        let marked = self.render(&messages, false)?;
        let at = marked.find(mark)?;
        let equal = marked.bytes().zip(self.text.bytes());
        let equal = equal.take_while(|(a, b)| a == b).count();
        (equal >= at).then_some(at)
    }

    /// The text of messages; `None` where the template refuses them, as some do a part of a
    /// conversation.
    fn render(&self, messages: &[Value], add_generation_prompt: bool) -> Option<String> {
        let options = ChatOptions {
            add_generation_prompt,
            ..self.options.clone()
        };
        let messages = Value::Array(messages.to_vec());
        self.template.render(&messages, &options).ok()
    }

    /// The first token that begins at a byte of the text or after it.
    fn token_at(&self, byte: usize) -> usize {
        self.starts.partition_point(|&start| start < byte)
    }
}

/// Appends a character to the content of a message, in its last text where it has parts.
fn append(content: &mut Value, mark: char) -> Option<()> {
    match content {
        Value::Null => *content = Value::String(mark.to_string()),
        Value::String(text) => text.push(mark),
        Value::Array(parts) => {
            let text = parts.iter_mut().rev().find_map(|part| part.get_mut("text"));
            append(text.filter(|text| text.is_string())?, mark)?;
        }
        _ => return None,
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::tiny_coder;
    use super::*;
    use serde_json::json;
    use std::path::Path;

    const FIXTURES: &str = "tests/fixtures/chat";

    fn template(name: &str) -> ChatTemplate {
        let path = Path::new(FIXTURES).join(format!("{name}.jinja"));
        ChatTemplate::new(&std::fs::read_to_string(path).unwrap()).unwrap()
    }

    /// The scored parts of a conversation, as text.
    fn scored_by(
        template: &ChatTemplate,
        messages: &Value,
        tools: Option<Value>,
        mask: LossMask,
    ) -> RowResult<Vec<String>> {
        let tokenizer = tiny_coder().tokenizer().unwrap();
        let messages = messages.as_array().unwrap();
        let conversation = Conversation::new(template, tokenizer, messages, tools)
            .map_err(|error| error.to_string())?;
        let text = conversation.text.clone();
        let sample = conversation.into_sample(0, mask, usize::MAX)?;
        assert_eq!(sample.input_ids, tokenizer.encode(&text, false).unwrap());
        sample.check()?;
        let decode = |range: &Range<usize>| {
            let ids = &sample.input_ids[range.clone()];
            tokenizer.decode(ids, false).unwrap()
        };
        Ok(sample.scored.iter().map(decode).collect())
    }

    fn scored(name: &str, messages: &Value, tools: Option<Value>) -> Vec<String> {
        scored_by(&template(name), messages, tools, LossMask::Assistant).unwrap()
    }

    fn user(content: &str) -> Value {
        json!({"role": "user", "content": content})
    }

    fn answer(content: &str) -> Value {
        json!({"role": "assistant", "content": content})
    }

    fn tools() -> Value {
        json!([{"type": "function", "function": {"name": "add", "description": "Adds.",
            "parameters": {"type": "object", "properties": {}}}}])
    }

    /// A message that calls the tool, and the result.
    fn call(content: &Value) -> [Value; 2] {
        let calls =
            json!([{"type": "function", "function": {"name": "add", "arguments": {"a": 2}}}]);
        [
            json!({"role": "assistant", "content": content, "tool_calls": calls}),
            json!({"role": "tool", "content": "4"}),
        ]
    }

    const CALL: &str = "<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 2}}\n</tool_call>";

    #[test]
    fn every_turn_of_the_assistant_is_scored_with_its_end() {
        let messages = json!([
            {"role": "system", "content": "Be brief. <|im_end|>"},
            user("one\n"), answer("  1\n"), user("zwei 🦀"), answer("größe 🦀"), user("three"),
        ]);
        let expected = ["  1\n<|im_end|>", "größe 🦀<|im_end|>"];
        for name in ["qwen2.5", "qwen3", "smollm2"] {
            assert_eq!(scored(name, &messages, None), expected, "{name}");
        }
        assert_eq!(scored("qwen3", &messages, Some(tools())), expected);
        let found = scored_by(&template("smollm2"), &messages, None, LossMask::Prompt);
        assert_eq!(found.unwrap(), expected[1..]);
        let found = scored_by(&template("smollm2"), &messages, None, LossMask::None).unwrap();
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("system\nBe brief. <|im_end|><|im_end|>\n"));
        assert!(found[0].ends_with("<|im_start|>user\nthree<|im_end|>\n"));
    }

    #[test]
    fn calls_of_tools_are_scored_and_their_results_are_not() {
        let [no_text, result] = call(&Value::Null);
        let [with_text, _] = call(&json!("I add."));
        let messages = json!([
            user("one"),
            no_text,
            result,
            answer("It is 4."),
            user("two"),
            with_text,
            result,
            result,
            answer("4 and 4."),
        ]);
        let expected = |think: &str| {
            [
                format!("{CALL}<|im_end|>"),
                "It is 4.<|im_end|>".to_owned(),
                format!("I add.\n{CALL}<|im_end|>"),
                format!("{think}4 and 4.<|im_end|>"),
            ]
        };
        assert_eq!(scored("qwen2.5", &messages, Some(tools())), expected(""));
        // Without content the template of Qwen3 fails, as in transformers.
        let messages = json!(messages.to_string().replace("null", "\"\""));
        let messages: Value = serde_json::from_str(messages.as_str().unwrap()).unwrap();
        let think = "<think>\n\n</think>\n\n";
        assert_eq!(scored("qwen3", &messages, Some(tools())), expected(think));
    }

    #[test]
    fn reasoning_is_scored_where_the_template_writes_it() {
        let reasoned = |content: &str| json!({"role": "assistant", "content": content, "reasoning_content": "because"});
        let [mut no_text, result] = call(&json!(""));
        no_text["reasoning_content"] = json!("because");
        let inline = answer("<think>\nas it is\n</think>\n\ntwo");
        let last = "<think>\nbecause\n</think>\n\nthree<|im_end|>";
        let messages = json!([
            user("a"),
            reasoned("one"),
            user("b"),
            inline,
            user("c"),
            reasoned("three"),
        ]);
        let found = scored("qwen3", &messages, None);
        assert_eq!(found, ["one<|im_end|>", "two<|im_end|>", last]);
        // What comes before a turn is written otherwise once the next question is there.
        let messages = json!([
            user("a"),
            no_text,
            result,
            reasoned("one"),
            user("b"),
            no_text,
            result,
            inline,
            user("c"),
            no_text,
            result,
            reasoned("three"),
        ]);
        let found = scored("qwen3", &messages, Some(tools()));
        let call = format!("{CALL}<|im_end|>");
        let thought = format!("<think>\nbecause\n</think>\n\n{call}");
        assert_eq!(
            found,
            [
                &call,
                "one<|im_end|>",
                &call,
                "two<|im_end|>",
                &thought,
                last
            ]
        );
    }

    #[test]
    fn a_turn_may_spell_the_token_that_ends_it() {
        let reasoned = json!({"role": "assistant", "content": "a<|im_end|>\nb",
            "reasoning_content": "because"});
        let messages = json!([user("a"), reasoned, user("b"), answer("c<|im_end|>d")]);
        let found = scored("qwen3", &messages, None);
        let think = "<think>\n\n</think>\n\n";
        let last = format!("{think}c<|im_end|>d<|im_end|>");
        assert_eq!(found, ["a<|im_end|>\nb<|im_end|>", &last]);
    }

    #[test]
    fn the_first_token_is_never_scored() {
        let source = "{% for m in messages if m.role != 'system' %}{{ m.content }}<|im_end|>\
                      {% endfor %}";
        let template = ChatTemplate::new(source).unwrap();
        let system = json!({"role": "system", "content": "a"});
        let messages = json!([system, answer("a b"), user("c")]);
        let found = scored_by(&template, &messages, None, LossMask::Assistant).unwrap();
        assert_eq!(found, [" b<|im_end|>"]);
    }

    #[test]
    fn a_prompt_that_adds_an_empty_block_begins_the_turn_before_it() {
        let think = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n\
                     {% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n\
                     <think></think>{% endif %}";
        let template = ChatTemplate::new(think).unwrap();
        let messages = json!([user("a"), answer("one"), user("b"), answer("two")]);
        let found = scored_by(&template, &messages, None, LossMask::Assistant).unwrap();
        assert_eq!(found, ["one<|im_end|>", "two<|im_end|>"]);
    }

    #[test]
    fn templates_may_end_turns_with_text_or_not_at_all() {
        let messages = json!([
            answer("hello"),
            user("a"),
            answer("one"),
            user("b"),
            answer("two")
        ]);
        for (end, ends) in [("\n", "\n"), ("<|endoftext|>", "<|endoftext|>"), ("", "")] {
            let source = format!(
                "{{% for m in messages %}}{{% if m.role == 'user' %}}Q: {{{{ m.content }}}}\n\
                 {{% else %}}A:{{{{ m.content }}}}{end}{{% endif %}}{{% endfor %}}\
                 {{% if add_generation_prompt %}}A:{{% endif %}}"
            );
            let template = ChatTemplate::new(&source).unwrap();
            let found = scored_by(&template, &messages, None, LossMask::Assistant).unwrap();
            let expected = ["hello", "one", "two"].map(|text| format!("{text}{ends}"));
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn a_template_that_only_takes_pairs_of_turns() {
        let source = "{% for m in messages %}\
                      {% if (m.role == 'user') != (loop.index0 % 2 == 0) %}\
                      {{ raise_exception('roles must alternate') }}{% endif %}\
                      {{ '[INST]' + m.content + '[/INST]' if m.role == 'user' \
                      else m.content + '<|endoftext|>' }}{% endfor %}";
        let template = ChatTemplate::new(source).unwrap();
        let messages = json!([user("a"), answer("one"), user("b"), answer("two")]);
        let found = scored_by(&template, &messages, None, LossMask::Assistant).unwrap();
        assert_eq!(found, ["one<|endoftext|>", "two<|endoftext|>"]);
        let wrong = json!([user("a"), user("b"), answer("c")]);
        let reason = scored_by(&template, &wrong, None, LossMask::Assistant).unwrap_err();
        assert!(reason.contains("roles must alternate"), "{reason}");
    }

    #[test]
    fn content_may_have_parts() {
        let source = "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for p in m.content %}\
                      {{ p.text }}{% endfor %}{{ '!' if loop.last }}<|im_end|>\n{% endfor %}\
                      {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
        let template = ChatTemplate::new(source).unwrap();
        let parts = |role: &str| json!({"role": role, "content": [{"type": "text", "text": "a"}, {"text": "b"}]});
        let messages = json!([parts("assistant"), parts("user"), parts("assistant")]);
        let found = scored_by(&template, &messages, None, LossMask::Assistant).unwrap();
        assert_eq!(found, ["ab<|im_end|>", "ab!<|im_end|>"]);
    }

    #[test]
    fn a_turn_that_cannot_be_found_is_named() {
        let messages = json!([user("a"), answer("one"), user("b"), answer("two")]);
        let reason_of = |source: &str, messages: &Value| {
            let template = ChatTemplate::new(source).unwrap();
            scored_by(&template, messages, None, LossMask::Assistant).unwrap_err()
        };
        let counting = "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}";
        let reason = reason_of(counting, &messages);
        assert!(reason.contains("`messages[1]`"), "{reason}");
        assert!(reason.contains("mask `none`"), "{reason}");
        let reason = reason_of("x", &json!([user("a")]));
        assert!(
            reason.starts_with("no message is the assistant's"),
            "{reason}"
        );
        let reason = reason_of("x", &json!([{"content": "a"}]));
        assert!(reason.contains("`messages[0].role` is missing"), "{reason}");
    }

    #[test]
    fn turns_beyond_the_cut_are_not_looked_for() {
        let turns = (0..2000).flat_map(|_| [user("a"), answer("b")]);
        let messages: Vec<_> = turns.collect();
        let (template, tokenizer) = (template("qwen3"), tiny_coder().tokenizer().unwrap());
        let conversation = Conversation::new(&template, tokenizer, &messages, None).unwrap();
        let sample = conversation
            .into_sample(0, LossMask::Assistant, 64)
            .unwrap();
        let last = sample.scored.last().unwrap();
        assert!((1..100).contains(&last.end), "{last:?}");
    }
}
