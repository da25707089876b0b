//! `examples-c/chat.c`: its answers are those of Rust, and an interrupt stops only an answer.

use super::program::Program;
use super::{MODEL, is_light};
use metal_candle::backend::DeviceKind;
use metal_candle::models::ChatOptions;
use metal_candle::{GenerateOptions, Generator, ModelLoader};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::ops::ControlFlow;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// The greedy answer to a question, which joins the conversation with it.
fn answer(
    generator: &mut Generator,
    messages: &mut Vec<Value>,
    question: &str,
    max_tokens: usize,
) -> String {
    let options = GenerateOptions {
        max_tokens,
        ..GenerateOptions::default()
    };
    messages.push(json!({"role": "user", "content": question}));
    let chat = ChatOptions::default();
    let found = generator.chat(&json!(messages), &chat, &options, |_| {
        ControlFlow::Continue(())
    });
    let text = found.unwrap().text;
    messages.push(json!({"role": "assistant", "content": text}));
    text
}

#[test]
fn a_conversation_is_kept_in_files() {
    const QUESTIONS: [&str; 4] = [
        "Print \"größe\\n\".\t?",
        "And sort it.",
        "What is a stack?",
        "Thanks!",
    ];
    let max_tokens = if is_light() { 1 } else { 8 };
    let program = Program::build("examples-c/chat.c");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("main.json");
    let file = path.to_str().unwrap();
    let [first, second, other, third] = QUESTIONS;
    let script = format!(
        "{first}\n{second}\n/save {file}\n/reset\n{other}\n/load {file}\n/load {file}.none\n{third}\n\
         /what\n\n/quit\nnot read"
    );
    let mut child = start(&program, max_tokens, Stdio::piped());
    child
        .stdin
        .take()
        .unwrap()
        .write_all(script.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let messages = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{messages}");
    let [missing, usage] = messages.lines().collect::<Vec<_>>()[..] else {
        panic!("{messages}");
    };
    assert!(missing.contains("main.json.none: "), "{missing}");
    assert_eq!(usage, "/reset, /save FILE, /load FILE or /quit");

    // The device that the C program gets without asking for any.
    let model = ModelLoader::new()
        .with_device(DeviceKind::Auto)
        .load(MODEL)
        .unwrap();
    let mut generator = Generator::new(&model);
    let mut saved = vec![];
    let mut ask = |generator: &mut _, question| answer(generator, &mut saved, question, max_tokens);
    let first = ask(&mut generator, first);
    let second = ask(&mut generator, second);
    let written = std::fs::read_to_string(&path).unwrap();
    assert_eq!(
        serde_json::from_str::<Value>(&written).unwrap(),
        json!(saved)
    );
    let context = generator.context().to_vec();
    let other = answer(&mut generator, &mut vec![], other, max_tokens);
    generator.load_session(format!("{file}.session")).unwrap();
    assert_eq!(generator.context(), context);
    let third = answer(&mut generator, &mut saved, third, max_tokens);
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        format!("> {first}\n> {second}\n> > > {other}\n> > > {third}\n> > > ")
    );
}

fn start(program: &Program, max_tokens: usize, errors: Stdio) -> Child {
    program
        .command()
        .args(["--model", MODEL, "--temperature", "0", "--max-tokens"])
        .arg(max_tokens.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(errors)
        .spawn()
        .unwrap()
}

/// What a program prints, as it comes.
struct Printed {
    parts: Receiver<Vec<u8>>,
    seen: Vec<u8>,
}

impl Printed {
    fn of(mut stdout: impl Read + Send + 'static) -> Self {
        let (sender, parts) = channel();
        std::thread::spawn(move || {
            let mut part = [0; 4096];
            while let Ok(length @ 1..) = stdout.read(&mut part) {
                if sender.send(part[..length].to_vec()).is_err() {
                    break;
                }
            }
        });
        Self {
            parts,
            seen: vec![],
        }
    }

    /// Waits for a text, and gives whether it came; it and what is before it is seen then.
    fn wait_for(&mut self, text: &str, most: Duration) -> bool {
        let end = Instant::now() + most;
        loop {
            let mut places = self.seen.windows(text.len());
            if let Some(place) = places.position(|part| part == text.as_bytes()) {
                self.seen.drain(..place + text.len());
                return true;
            }
            match self
                .parts
                .recv_timeout(end.saturating_duration_since(Instant::now()))
            {
                Ok(part) => self.seen.extend(part),
                Err(RecvTimeoutError::Timeout) => return false,
                Err(RecvTimeoutError::Disconnected) => panic!("the program has ended"),
            }
        }
    }

    /// Waits until something is printed that is not seen yet.
    fn wait_for_more(&mut self) {
        if self.seen.is_empty() {
            self.seen = self.parts.recv_timeout(LONG).unwrap();
        }
    }
}

const LONG: Duration = Duration::from_secs(300);

#[cfg(unix)]
#[test]
fn an_interrupt_stops_the_answer_and_not_the_program() {
    let program = Program::build("examples-c/chat.c");
    let mut child = start(&program, 1000, Stdio::inherit());
    let mut input = child.stdin.take().unwrap();
    let mut printed = Printed::of(child.stdout.take().unwrap());
    let number = child.id();
    // More than once, because the program may not have begun with what is to be interrupted.
    let interrupt = |printed: &mut Printed, effect: &str| {
        for _ in 0..300 {
            let mut command = Command::new("sh");
            let status = command
                .args(["-c", &format!("kill -INT {number}")])
                .status();
            assert!(status.unwrap().success());
            if printed.wait_for(effect, Duration::from_secs(1)) {
                return;
            }
        }
        panic!("{effect:?} does not come");
    };
    assert!(printed.wait_for("> ", LONG));
    for question in ["Write a long program.", "Write another one."] {
        writeln!(input, "{question}").unwrap();
        printed.wait_for_more();
        interrupt(&mut printed, " [stopped]\n> ");
        // While it waits for a question, it goes on to wait.
        interrupt(&mut printed, "\n> ");
    }
    drop(input);
    assert!(child.wait().unwrap().success());
}
