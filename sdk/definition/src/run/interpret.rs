//! Does the tasks of a definition, one after another.
//!
//! Must never swallow what its host said: [`Ended::Stopped`] goes straight up, past every `catch`.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use serde_json::{Value, json};

use super::http::{no_answer, outcome, request};
use super::jq::Jq;
use super::{Ended, Failure, Fault, Host};
use crate::Definition;
use crate::limits::{ITEMS_COUNT_MAX, TASKS_RUN_COUNT_MAX, WAIT_MS_MAX};
use crate::model::{Backoff, Call, Loop, Retry, Task, Template, Then, Try, Work};

type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;
/// What a list of tasks came to: its last output, and whether the workflow is to end.
type Came<S> = Result<(Value, bool), Ended<S>>;

/// What is the same for the whole run.
struct Shared {
    jq: Jq,
    workflow: Value,
    runtime: Value,
    tasks_count: Cell<u32>,
}

/// The run, or one branch of it.
struct Runner<'a, H> {
    host: H,
    shared: &'a Shared,
    /// What `export.as` left; a branch has its own.
    context: RefCell<Value>,
}

/// What the tasks around have bound.
#[derive(Clone, Default)]
struct Scope {
    variables: BTreeMap<String, Value>,
    key: Option<Rc<Key>>,
}

/// Names the calls inside a `try` that is tried again: the same call has the same key each time, so that the far end does
/// its part once.
struct Key {
    id: String,
    next: Cell<u32>,
}

/// What expressions see beside the context.
struct View<'a> {
    task: &'a Value,
    input: &'a Value,
    output: &'a Value,
}

/// What a task's work came to: its output, and where it goes on if the work has a say in that.
struct Done {
    output: Value,
    then: Option<Then>,
}

pub(super) async fn run<H: Host>(definition: &Definition, host: H, input: Value) -> Result<Value, Ended<H::Stop>> {
    let facts = host.about();
    let document = json!({ "namespace": definition.namespace, "name": definition.name, "version": definition.version });
    let shared = Shared {
        jq: Jq::default(),
        workflow: json!({
            "id": facts.id,
            "definition": { "document": document },
            "input": input,
            "startedAt": { "epoch": { "seconds": facts.started_ms / 1_000, "milliseconds": facts.started_ms } },
        }),
        runtime: json!({ "name": "ringfence" }),
        tasks_count: Cell::new(0),
    };
    let runner = Runner { host, shared: &shared, context: RefCell::new(Value::Null) };
    let scope = Scope::default();
    let input = runner.optional(definition.input_from.as_ref(), input, &View::none(), &scope)?;
    let (output, _) = runner.list(&definition.tasks, input, &scope).await?;
    Ok(runner.optional(definition.output_as.as_ref(), output, &View::none(), &scope)?)
}

impl<H: Host> Runner<'_, H> {
    /// Does a list of tasks; gives the last output, and whether the workflow is to end.
    fn list<'s>(&'s self, tasks: &'s [Task], input: Value, scope: &'s Scope) -> Boxed<'s, Came<H::Stop>> {
        Box::pin(async move {
            let (mut at, mut data) = (0, input);
            while let Some(task) = tasks.get(at) {
                let (output, then) = self.task(task, data, scope).await.map_err(|ended| ended.at(&task.path))?;
                data = output;
                at = match then {
                    Then::Next => at + 1,
                    Then::Exit => break,
                    Then::End => return Ok((data, true)),
                    Then::Task(index) => index,
                };
            }
            Ok((data, false))
        })
    }

    async fn task(&self, task: &Task, raw: Value, scope: &Scope) -> Result<(Value, Then), Ended<H::Stop>> {
        let count = self.shared.tasks_count.get();
        if count >= TASKS_RUN_COUNT_MAX {
            return Err(
                Fault::standard("runtime", 500, format!("a run does at most {TASKS_RUN_COUNT_MAX} tasks")).into()
            );
        }
        self.shared.tasks_count.set(count + 1);
        let about = json!({ "name": task.name, "reference": task.path });
        let view = View { task: &about, input: &raw, output: &Value::Null };
        if let Some(condition) = &task.condition
            && !self.is_true(condition, &raw, &view, scope)?
        {
            return Ok((raw, Then::Next));
        }
        let input = self.optional(task.input_from.as_ref(), raw.clone(), &view, scope)?;
        let view = View { input: &input, ..view };
        let done = self.work(task, &input, &view, scope).await?;
        let view = View { output: &done.output, ..view };
        let output = self.optional(task.output_as.as_ref(), done.output.clone(), &view, scope)?;
        if let Some(export) = &task.export_as {
            let view = View { output: &output, ..view };
            let context = self.fill(export, &output, &view, scope)?;
            *self.context.borrow_mut() = context;
        }
        Ok((output, done.then.unwrap_or(task.then)))
    }

    async fn work(&self, task: &Task, input: &Value, view: &View<'_>, scope: &Scope) -> Result<Done, Ended<H::Stop>> {
        let output = match &task.work {
            Work::Do(tasks) => return self.inner(tasks, input.clone(), scope).await,
            Work::Set(template) => self.fill(template, input, view, scope)?,
            Work::Call(call) => self.call(task, call, input, view, scope).await?,
            Work::Switch(cases) => {
                let mut then = None;
                for case in cases {
                    let is_taken = match &case.when {
                        Some(when) => self.is_true(when, input, view, scope)?,
                        None => true,
                    };
                    if is_taken {
                        then = Some(case.then);
                        break;
                    }
                }
                return Ok(Done { output: input.clone(), then });
            }
            Work::For(each) => return self.for_each(each, input, view, scope).await,
            Work::Fork(branches) => self.fork(branches, input, scope).await?,
            Work::Wait { ms } => {
                self.host.sleep(&task.name, Duration::from_millis(*ms))?;
                input.clone()
            }
            Work::Listen { event, timeout_ms } => {
                match self.host.signal(event, timeout_ms.map(Duration::from_millis))? {
                    Some(payload) => json!([payload]),
                    None => return Err(Fault::standard("timeout", 408, format!("no `{event}` came in time")).into()),
                }
            }
            Work::Emit { queue, event } => self.emit(task, queue, event, input, view, scope).await?,
            Work::Raise(error) => return Err(raised(self.fill(error, input, view, scope)?).into()),
            Work::Try(attempt) => return self.try_catch(task, attempt, input, view, scope).await,
            Work::Run { workflow, input: given, is_awaited } => {
                let given = match given {
                    Some(template) => self.fill(template, input, view, scope)?,
                    None => input.clone(),
                };
                let run = self.host.start_child(workflow, &given)?;
                if *is_awaited { self.host.wait_for_child(&run)? } else { input.clone() }
            }
        };
        Ok(Done { output, then: None })
    }

    /// A list inside a task: its end is this task's end, unless the workflow ends in it.
    async fn inner(&self, tasks: &[Task], input: Value, scope: &Scope) -> Result<Done, Ended<H::Stop>> {
        let (output, is_end) = self.list(tasks, input, scope).await?;
        Ok(Done { output, then: is_end.then_some(Then::End) })
    }

    async fn call(
        &self,
        task: &Task,
        call: &Call,
        input: &Value,
        view: &View<'_>,
        scope: &Scope,
    ) -> Result<Value, Ended<H::Stop>> {
        let fill = |template: &Template| self.fill(template, input, view, scope);
        let endpoint = fill(&call.endpoint)?;
        let headers = call.headers.as_ref().map(fill).transpose()?;
        let query = call.query.as_ref().map(fill).transpose()?;
        let body = call.body.as_ref().map(fill).transpose()?;
        let asked = request(&call.method, &endpoint, input, [headers, query], body)?;
        let own_key = scope.key.as_ref().map(|key| key.take());
        let send = async |key: String| {
            let response = self.host.send(asked.keyed(own_key.unwrap_or(key))).await.map_err(no_answer)?;
            outcome(response, call.wants_response)
        };
        // Inside a `try` that is tried again, how often is the definition's to say.
        self.host.step(&task.name, scope.key.is_some(), send).await
    }

    async fn emit(
        &self,
        task: &Task,
        queue: &str,
        event: &Template,
        input: &Value,
        view: &View<'_>,
        scope: &Scope,
    ) -> Result<Value, Ended<H::Stop>> {
        let mut event = self.fill(event, input, view, scope)?;
        let own_key = scope.key.as_ref().map(|key| key.take());
        let sent = async |key: String| {
            let key = own_key.unwrap_or(key);
            if let Value::Object(words) = &mut event {
                words.insert("specversion".to_owned(), json!("1.0"));
                words.insert("id".to_owned(), json!(key));
            }
            let failed = |why| Failure { fault: Fault::standard("communication", 503, why), again: true };
            self.host.enqueue(queue, &event, &key).map_err(failed)?;
            Ok(event)
        };
        self.host.step(&task.name, scope.key.is_some(), sent).await
    }

    async fn for_each(
        &self,
        each: &Loop,
        input: &Value,
        view: &View<'_>,
        scope: &Scope,
    ) -> Result<Done, Ended<H::Stop>> {
        let Value::Array(items) = self.evaluate(&each.items, input, view, scope)? else {
            return Err(Fault::standard("expression", 400, "`in` gives no list").into());
        };
        if items.len() > ITEMS_COUNT_MAX {
            let why = format!("`in` gives more than {ITEMS_COUNT_MAX} items");
            return Err(Fault::standard("runtime", 400, why).into());
        }
        let mut data = input.clone();
        for (index, item) in items.into_iter().enumerate() {
            let mut scope = scope.clone();
            scope.variables.insert(each.item.clone(), item);
            scope.variables.insert(each.index.clone(), json!(index));
            if let Some(condition) = &each.condition
                && !self.is_true(condition, &data, view, &scope)?
            {
                break;
            }
            let (output, is_end) = self.list(&each.tasks, data, &scope).await?;
            data = output;
            if is_end {
                return Ok(Done { output: data, then: Some(Then::End) });
            }
        }
        Ok(Done { output: data, then: None })
    }

    async fn fork(&self, branches: &[Task], input: &Value, scope: &Scope) -> Result<Value, Ended<H::Stop>> {
        let context = self.context.borrow().clone();
        let key = scope.key.as_ref().map(|key| key.take());
        let each = async |host: H, index: usize| {
            let Some(task) = branches.get(index) else { return Ok(Value::Null) };
            // A branch counts its calls by itself: how far the others came differs from run to run.
            let key = key.as_ref().map(|id| Rc::new(Key { id: format!("{id}-{index}"), next: Cell::new(0) }));
            let scope = Scope { variables: scope.variables.clone(), key };
            let runner = Runner { host, shared: self.shared, context: RefCell::new(context.clone()) };
            let done = runner.list(std::slice::from_ref(task), input.clone(), &scope).await;
            done.map(|(output, _)| output)
        };
        let outputs = self.host.each(branches.len(), each).await?;
        Ok(Value::Array(outputs.into_iter().collect::<Result<Vec<Value>, Fault>>()?))
    }

    async fn try_catch(
        &self,
        task: &Task,
        attempt: &Try,
        input: &Value,
        view: &View<'_>,
        scope: &Scope,
    ) -> Result<Done, Ended<H::Stop>> {
        let mut inner = scope.clone();
        if attempt.retry.is_some() && inner.key.is_none() {
            inner.key = Some(Rc::new(Key { id: self.host.new_id()?, next: Cell::new(0) }));
        }
        let first = inner.key.as_ref().map_or(0, |key| key.next.get());
        let mut attempts_count = 1;
        loop {
            let fault = match self.inner(&attempt.tasks, input.clone(), &inner).await {
                Err(Ended::Raised(fault)) => fault,
                other => return other,
            };
            let mut scope = scope.clone();
            scope.variables.insert(attempt.error.clone(), fault.to_value());
            if !self.is_caught(attempt, &fault, input, view, &scope)? {
                return Err(fault.into());
            }
            if let Some(retry) = attempt.retry
                && attempts_count < retry.attempts_count
            {
                self.host.sleep(&task.name, self.delay(retry, attempts_count)?)?;
                attempts_count += 1;
                if let Some(key) = &inner.key {
                    key.next.set(first);
                }
                continue;
            }
            return match &attempt.handler {
                Some(tasks) => self.inner(tasks, input.clone(), &scope).await,
                None if attempt.retry.is_some() => Err(fault.into()),
                None => Ok(Done { output: input.clone(), then: None }),
            };
        }
    }

    fn is_caught(
        &self,
        attempt: &Try,
        fault: &Fault,
        input: &Value,
        view: &View<'_>,
        scope: &Scope,
    ) -> Result<bool, Fault> {
        let error = fault.to_value();
        if attempt.matches.iter().any(|(word, wanted)| error.get(word) != Some(wanted)) {
            return Ok(false);
        }
        if let Some(when) = &attempt.when
            && !self.is_true(when, input, view, scope)?
        {
            return Ok(false);
        }
        match &attempt.except_when {
            Some(except) => Ok(!self.is_true(except, input, view, scope)?),
            None => Ok(true),
        }
    }

    /// The wait before the attempt after this many.
    fn delay(&self, retry: Retry, attempts_count: u32) -> Result<Duration, Ended<H::Stop>> {
        let factor = match retry.backoff {
            Backoff::Constant => 1,
            Backoff::Linear => u64::from(attempts_count),
            Backoff::Exponential => 1_u64.checked_shl(attempts_count.saturating_sub(1)).unwrap_or(u64::MAX),
        };
        let mut ms = retry.delay_ms.saturating_mul(factor);
        if let Some((from, to)) = retry.jitter_ms {
            let span = to.saturating_sub(from).saturating_add(1);
            ms = ms.saturating_add(from).saturating_add(self.host.random()? % span);
        }
        Ok(Duration::from_millis(ms.min(WAIT_MS_MAX)))
    }

    fn is_true(&self, expression: &str, dot: &Value, view: &View<'_>, scope: &Scope) -> Result<bool, Fault> {
        Ok(!matches!(self.evaluate(expression, dot, view, scope)?, Value::Null | Value::Bool(false)))
    }

    fn evaluate(&self, expression: &str, dot: &Value, view: &View<'_>, scope: &Scope) -> Result<Value, Fault> {
        let context = self.context.borrow();
        // In the order of `model::VARIABLES`.
        let usual = [&*context, view.input, view.output, &self.shared.runtime, view.task, &self.shared.workflow];
        let extra: Vec<(&str, &Value)> = scope.variables.iter().map(|(name, value)| (name.as_str(), value)).collect();
        let result = self.shared.jq.evaluate(expression, dot, usual, &extra);
        result.map_err(|why| Fault::standard("expression", 400, format!("`{expression}`: {why}")))
    }

    fn optional(
        &self,
        template: Option<&Template>,
        value: Value,
        view: &View<'_>,
        scope: &Scope,
    ) -> Result<Value, Fault> {
        template.map_or(Ok(value.clone()), |template| self.fill(template, &value, view, scope))
    }

    fn fill(&self, template: &Template, dot: &Value, view: &View<'_>, scope: &Scope) -> Result<Value, Fault> {
        match template {
            Template::Expression(expression) => self.evaluate(expression, dot, view, scope),
            Template::Data(data) => self.fill_data(data, dot, view, scope),
        }
    }

    fn fill_data(&self, data: &Value, dot: &Value, view: &View<'_>, scope: &Scope) -> Result<Value, Fault> {
        match data {
            Value::String(text) => match crate::read::inside(text) {
                Some(expression) => self.evaluate(expression.trim(), dot, view, scope),
                None => Ok(data.clone()),
            },
            Value::Array(items) => items.iter().map(|item| self.fill_data(item, dot, view, scope)).collect(),
            Value::Object(members) => {
                let fill =
                    |(name, member): (&String, &Value)| Ok((name.clone(), self.fill_data(member, dot, view, scope)?));
                Ok(Value::Object(members.iter().map(fill).collect::<Result<_, Fault>>()?))
            }
            other => Ok(other.clone()),
        }
    }
}

impl View<'static> {
    /// Outside of every task.
    fn none() -> Self {
        Self { task: &Value::Null, input: &Value::Null, output: &Value::Null }
    }
}

impl Key {
    /// The key of the next call.
    fn take(&self) -> String {
        let number = self.next.get();
        self.next.set(number.saturating_add(1));
        format!("{}-{number}", self.id)
    }
}

impl<S> Ended<S> {
    fn at(self, path: &str) -> Self {
        match self {
            Self::Raised(fault) => Self::Raised(fault.at(path)),
            stopped @ Self::Stopped(_) => stopped,
        }
    }
}

/// The error that a `raise` asks for.
fn raised(error: Value) -> Fault {
    serde_json::from_value(error)
        .unwrap_or_else(|error| Fault::standard("expression", 400, format!("`raise` gives no error: {error}")))
}
