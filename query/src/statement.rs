//! What may be asked: one read-only statement, of bounded size, depth and fan-out.
//!
//! The bounds matter before any limit on time or memory applies: planning runs without a pause, so a
//! statement whose plan is deep or multiplies itself would hold a thread, or end the process.

use std::collections::HashMap;
use std::ops::ControlFlow;

use datafusion::error::DataFusionError;
use datafusion::sql::parser::{DFParserBuilder, Statement};
use datafusion::sql::sqlparser::ast::{
    DescribeAlias, Expr, ObjectName, Query, Statement as SqlStatement, Visit, Visitor,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};

use crate::error::QueryError;
use crate::scope::Scope;

/// Longest SQL text taken.
pub const SQL_BYTES_MAX: usize = 64 << 10;
const TOKENS_MAX: usize = 10_000;
/// Operators and keywords that put one expression inside another without brackets.
const OPERATORS_MAX: usize = 600;
/// What the parser itself may nest: brackets, subqueries, CASE.
const NESTING_MAX: usize = 40;
/// `WITH` inside `WITH` is walked twice per level by the planner's name resolution.
const NESTED_WITH_MAX: usize = 4;
/// Tables read once every CTE and view is written out where it is used.
const RELATIONS_MAX: usize = 100;

/// Scalar functions that make much out of little: memory that no pool accounts for.
pub(crate) const REMOVED_FUNCTIONS: &[&str] = &[
    "repeat",
    "lpad",
    "rpad",
    "array_repeat",
    "list_repeat",
    "array_resize",
    "list_resize",
    "range",
    "generate_series",
];

/// Parses `sql` and refuses what `scope` may not ask.
pub(crate) fn parse(sql: &str, scope: &Scope) -> Result<Statement, QueryError> {
    if sql.len() > SQL_BYTES_MAX {
        return Err(QueryError::TooLong { bytes: sql.len(), limit_bytes: SQL_BYTES_MAX });
    }
    check_tokens(sql)?;
    let mut parser = DFParserBuilder::new(sql)
        .with_recursion_limit(NESTING_MAX)
        .build()
        .map_err(|error| syntax(&error))?;
    let mut statements = parser.parse_statements().map_err(|error| syntax(&error))?;
    if statements.len() > 1 {
        return Err(QueryError::SeveralStatements(statements.len()));
    }
    let statement = statements.pop_front().ok_or(QueryError::Empty)?;
    check_allowed(&statement, scope)?;
    check_fan_out(&statement)?;
    Ok(statement)
}

fn syntax(error: &DataFusionError) -> QueryError {
    let text = error.strip_backtrace();
    if text.contains("recursion limit") || text.contains("RecursionLimitExceeded") {
        let found = NESTING_MAX + 1;
        return QueryError::TooComplex { what: "or more levels of nesting", found, limit: NESTING_MAX };
    }
    let text = text.trim_start_matches("SQL error: ").to_owned();
    // sqlparser's Debug form is what DataFusion prints; show only the sentence.
    let sentence = text.strip_prefix("ParserError(\"").and_then(|rest| rest.strip_suffix("\")"));
    let sentence = sentence.map_or(text.clone(), |sentence| sentence.replace("\\\"", "\""));
    QueryError::Syntax(format!("the SQL cannot be read: {sentence}"))
}

fn check_tokens(sql: &str) -> Result<(), QueryError> {
    let tokens = Tokenizer::new(&GenericDialect {}, sql)
        .tokenize()
        .map_err(|error| QueryError::Syntax(format!("the SQL cannot be read: {error}")))?;
    let is_operator = |token: &&Token| match token {
        Token::Word(word) => {
            matches!(
                word.keyword,
                Keyword::AND
                    | Keyword::OR
                    | Keyword::NOT
                    | Keyword::XOR
                    | Keyword::IS
                    | Keyword::IN
                    | Keyword::LIKE
                    | Keyword::ILIKE
                    | Keyword::RLIKE
                    | Keyword::REGEXP
                    | Keyword::SIMILAR
                    | Keyword::BETWEEN
                    | Keyword::COLLATE
                    | Keyword::AT
                    | Keyword::DIV
                    | Keyword::OPERATOR
                    | Keyword::INTERVAL
                    | Keyword::UNION
                    | Keyword::INTERSECT
                    | Keyword::EXCEPT
                    | Keyword::MINUS
            )
        }
        Token::Number(..)
        | Token::SingleQuotedString(_)
        | Token::DoubleQuotedString(_)
        | Token::Comma
        | Token::Period
        | Token::LParen
        | Token::RParen
        | Token::SemiColon
        | Token::Whitespace(_)
        | Token::EOF => false,
        _ => true,
    };
    let words = tokens.iter().filter(|token| !matches!(token, Token::Whitespace(_))).count();
    if words > TOKENS_MAX {
        return Err(QueryError::TooComplex { what: "words and signs", found: words, limit: TOKENS_MAX });
    }
    let operators = tokens.iter().filter(is_operator).count();
    if operators > OPERATORS_MAX {
        return Err(QueryError::TooComplex {
            what: "operators (a list of values is better written as IN (…))",
            found: operators,
            limit: OPERATORS_MAX,
        });
    }
    Ok(())
}

fn check_allowed(statement: &Statement, scope: &Scope) -> Result<(), QueryError> {
    match statement {
        Statement::Statement(statement) => match statement.as_ref() {
            SqlStatement::Query(_)
            | SqlStatement::ShowTables { .. }
            | SqlStatement::ShowColumns { .. }
            | SqlStatement::ExplainTable {
                describe_alias: DescribeAlias::Describe | DescribeAlias::Desc,
                ..
            } => Ok(()),
            other => Err(QueryError::ReadOnly { statement: verb(&other.to_string()) }),
        },
        Statement::Explain(explain) => match (scope, explain.statement.as_ref()) {
            (Scope::Tenant(_), _) => Err(QueryError::NotAvailable {
                what: "EXPLAIN".to_owned(),
                instead: "a plan speaks of every tenant's files, so only an operator may see it",
            }),
            (Scope::AllTenants, inner @ Statement::Statement(_)) => check_allowed(inner, scope),
            (Scope::AllTenants, other) => Err(QueryError::ReadOnly { statement: verb(&other.to_string()) }),
        },
        other => Err(QueryError::ReadOnly { statement: verb(&other.to_string()) }),
    }
}

/// The first word or two of a statement: enough to say which one is meant.
fn verb(statement: &str) -> String {
    let words = statement.split_whitespace().take_while(|word| word.chars().all(|c| c.is_ascii_uppercase()));
    let verb = words.take(2).collect::<Vec<_>>().join(" ");
    if verb.is_empty() { "this statement".to_owned() } else { verb }
}

fn check_fan_out(statement: &Statement) -> Result<(), QueryError> {
    let statement = match statement {
        Statement::Explain(explain) => return check_fan_out(&explain.statement),
        Statement::Statement(statement) => statement,
        _ => return Ok(()),
    };
    let mut fan_out = FanOut { open: vec![0], ..FanOut::default() };
    match statement.visit(&mut fan_out) {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(()),
    }
}

/// Counts the tables that a statement reads when each CTE is written out at each of its uses, as the planner
/// does: twenty CTEs that each name the one before twice read a million.
#[derive(Default)]
struct FanOut {
    /// Relations in each query that is being walked, outermost first.
    open: Vec<usize>,
    /// What one use of a CTE costs, by its lower-case name; the dearest of that name in any scope.
    ctes: HashMap<String, usize>,
    /// CTEs whose bodies are yet to be walked: where the body stands, and its name.
    awaited: HashMap<usize, String>,
    nested_with: usize,
}

fn place(query: &Query) -> usize {
    std::ptr::from_ref(query).addr()
}

impl Visitor for FanOut {
    type Break = QueryError;

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<QueryError> {
        self.open.push(0);
        if let Some(with) = &query.with {
            self.nested_with += 1;
            if self.nested_with > NESTED_WITH_MAX {
                return ControlFlow::Break(QueryError::TooComplex {
                    what: "levels of WITH inside WITH",
                    found: self.nested_with,
                    limit: NESTED_WITH_MAX,
                });
            }
            for cte in &with.cte_tables {
                self.awaited.insert(place(&cte.query), cte.alias.name.value.to_lowercase());
            }
        }
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, query: &Query) -> ControlFlow<QueryError> {
        let relations = self.open.pop().unwrap_or_default();
        if query.with.is_some() {
            self.nested_with = self.nested_with.saturating_sub(1);
        }
        match self.awaited.remove(&place(query)) {
            // Paid for where it is used.
            Some(name) => {
                let cost = self.ctes.entry(name).or_default();
                // One more than what it reads, so that a chain of CTEs, each naming the one before, ends too.
                *cost = relations.saturating_add(1).max(*cost);
                self.add(0)
            }
            None => self.add(relations),
        }
    }

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<QueryError> {
        let name = relation.to_string().to_lowercase();
        let cost = self.ctes.get(name.trim_matches('"')).copied().unwrap_or(1);
        self.add(cost)
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<QueryError> {
        if let Expr::Function(function) = expr {
            let name = function.name.to_string().to_lowercase();
            if REMOVED_FUNCTIONS.contains(&name.trim_matches('"')) {
                return ControlFlow::Break(QueryError::NotAvailable {
                    what: format!("the function {name}"),
                    instead: "it can make any amount of data from nothing; generate_series(a, b) is, in FROM",
                });
            }
        }
        ControlFlow::Continue(())
    }
}

impl FanOut {
    fn add(&mut self, relations: usize) -> ControlFlow<QueryError> {
        if let Some(open) = self.open.last_mut() {
            *open = open.saturating_add(relations);
            if *open > RELATIONS_MAX {
                return ControlFlow::Break(QueryError::TooComplex {
                    what: "tables, counting each use of each WITH query",
                    found: *open,
                    limit: RELATIONS_MAX,
                });
            }
        }
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests;
