// The server, as this page uses it: the list of models, and chat answers as streams of chunks.

// A failure that the page shows: one sentence, and the status if the server answered.
export class ServerError extends Error {
  constructor(sentence, status = 0) {
    super(sentence);
    this.status = status;
  }
}

// Return the entries of /v1/models; `run` in each says which checkpoint is served.
export async function models(key) {
  const response = await request("v1/models", { headers: headers(key) });
  return (await response.json()).data;
}

// Yield the chunks of one answer. An abort of the signal ends it with the browser's AbortError.
export async function* chat(body, key, signal) {
  const response = await request("v1/chat/completions", {
    method: "POST",
    headers: { ...headers(key), "content-type": "application/json" },
    body: JSON.stringify(body),
    signal,
  });
  for await (const data of events(response.body)) {
    if (data === "[DONE]") {
      return;
    }
    const chunk = JSON.parse(data);
    if (chunk.error) {
      throw new ServerError(chunk.error.message);
    }
    yield chunk;
  }
  throw new ServerError("The connection ended before the answer did.");
}

function headers(key) {
  return key ? { authorization: `Bearer ${key}` } : {};
}

async function request(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (failure) {
    if (failure.name === "AbortError") {
      throw failure;
    }
    throw new ServerError("The server cannot be reached. Is it still running?");
  }
  if (!response.ok) {
    throw await refusal(response);
  }
  return response;
}

// The sentence of {"error": {"message": ...}}, or the status if the body is something else.
async function refusal(response) {
  let sentence = `The server answered with status ${response.status}.`;
  try {
    sentence = (await response.json()).error.message || sentence;
  } catch {
    // A proxy in between may answer with a page of its own; the status says enough.
  }
  const seconds = response.headers.get("retry-after");
  if (seconds) {
    sentence += ` It asks to wait ${seconds} s.`;
  }
  return new ServerError(sentence, response.status);
}

// Yield the data of each server-sent event, whatever the pieces in which the bytes arrive.
export async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    while (true) {
      const { value, done } = await read(reader);
      if (done) {
        return;
      }
      const lines = (rest + value).split(/\r?\n/);
      rest = lines.pop();
      for (const line of lines) {
        if (line.startsWith("data:")) {
          yield line.slice(5).trim();
        }
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

async function read(reader) {
  try {
    return await reader.read();
  } catch (failure) {
    if (failure.name === "AbortError") {
      throw failure;
    }
    throw new ServerError("The connection broke before the answer ended.");
  }
}
