//! Finding the rules of a grammar that no text can complete.

use std::collections::HashMap;

use llguidance::api::ParserLimits;
use llguidance::earley::regexvec::LexemeSet;
use llguidance::earley::{CGrammar, CSymIdx};

/// The symbols that can occur in a text, each with its place in `order`.
struct Reachable {
    order: Vec<CSymIdx>,
    places: HashMap<usize, usize>,
}

impl Reachable {
    fn new(grammar: &CGrammar) -> Self {
        let start = grammar.start();
        let mut order = vec![start];
        let mut places = HashMap::from([(start.as_index(), 0)]);
        let mut next = 0;
        while next < order.len() {
            for &rule in grammar.rules_of(order[next]) {
                for &part in grammar.rule_rhs(rule).0 {
                    places.entry(part.as_index()).or_insert_with(|| {
                        order.push(part);
                        order.len() - 1
                    });
                }
            }
            next += 1;
        }
        Self { order, places }
    }
}

/// Describes a rule that a text can enter but never complete: one whose expression matches nothing,
/// or that always needs itself.
///
/// The grammar library would notice the first only when a text comes there, and the second never.
/// Each rule waits for a number of parts; a symbol completes when a rule of it waits for none.
/// Conditions of parametric rules count as met.
pub(super) fn dead_rule(grammar: &CGrammar) -> Option<String> {
    let Reachable { order, places } = Reachable::new(grammar);
    let spec = grammar.lexer_spec();
    let mut expressions = spec.to_regex_vec(&mut ParserLimits::default()).ok()?;
    let mut completes = vec![false; order.len()];
    let mut new = vec![];
    // For each rule its symbol and the parts it waits for; for each symbol the rules that wait.
    let mut rules: Vec<(usize, usize)> = vec![];
    let mut waiting: Vec<Vec<usize>> = vec![vec![]; order.len()];
    for (place, &symbol) in order.iter().enumerate() {
        let data = grammar.sym_data(symbol);
        completes[place] = match data.lexeme {
            Some(lexeme) => {
                let mut alone = LexemeSet::new(spec.lexemes.len());
                alone.add(lexeme);
                !expressions.initial_state(&alone).is_dead()
            }
            None => data.is_nullable || !data.cond_nullable.is_empty(),
        };
        if completes[place] {
            new.push(place);
        }
        for &rule in &data.rules {
            let parts = grammar.rule_rhs(rule).0;
            for part in parts {
                waiting[places[&part.as_index()]].push(rules.len());
            }
            rules.push((place, parts.len()));
        }
    }
    while let Some(place) = new.pop() {
        for &rule in &waiting[place] {
            let (symbol, parts) = &mut rules[rule];
            *parts -= 1;
            if *parts == 0 && !completes[*symbol] {
                completes[*symbol] = true;
                new.push(*symbol);
            }
        }
    }
    let dead = order.iter().zip(completes).filter(|(_, done)| !done);
    let names: Vec<&str> = dead.map(|(&symbol, _)| grammar.sym_name(symbol)).collect();
    if names.is_empty() {
        return None;
    }
    // The last one is the cause rather than a rule that needs it. A number ends the name of what
    // the compiler made of a rule, and is all of the name of what it made of nothing named.
    let told = names.iter().rev().find_map(|name| {
        let is_reference = name.starts_with("#/");
        let rule = if is_reference {
            name
        } else {
            name.split('#').next()?
        };
        (!rule.is_empty() && !rule.starts_with('[')).then_some(rule)
    });
    Some(told.map_or_else(|| "a part of it".to_owned(), |rule| format!("`{rule}`")))
}
