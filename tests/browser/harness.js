// Drives contract_client.js as a web UI would and sends what it saw to the test.
//
// Only what a React build brings along is added: `process.env` (in /settings.js, from the test)
// and `getAgent`, which the contract calls but does not define.
"use strict";

const getAgent = async (agentId) => {
  const response = await authenticatedFetch(`${API_V1}/agents/${agentId}`);
  return response.json();
};

const { user, token, agentId, foreignAgentId } = harness;
const seen = {};

// A step that fails is told as { error }, so that one run shows all of them.
const step = async (name, action) => {
  try {
    seen[name] = await action();
  } catch (error) {
    seen[name] = { error: `${error.name}: ${error.message}` };
  }
  return seen[name];
};

const sendJson = (path, body) =>
  fetch(`${API_V1}${path}`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify(body)
  });

const fetchFile = async (name) => {
  const content = await (await fetch('/agent.tar.gz')).blob();
  return new File([content], name);
};

const pollUntilBuilt = (id) =>
  new Promise((resolve) => {
    const updates = [];
    pollAgentStatus(id, (agent) => {
      updates.push(agent.status);
      if (['ready', 'failed'].includes(agent.status)) {
        resolve(updates);
      }
    });
  });

const driveMainJob = async () => {
  await step('register', async () => handleApiError(await sendJson('/auth/register', user)));
  const session = await step('login', () => login(user.username, user.password));
  localStorage.setItem('token', session.access_token ?? token);
  const agent = await step('create', () => createAgent('from-the-browser', 'Made by a web page'));
  await step('list', listAgents);
  const id = agent.id ?? agentId;
  const upload = await step('upload', async () => uploadArtifact(id, await fetchFile('agent.tar.gz')));
  if (upload.id) {
    await step('poll', () => pollUntilBuilt(id));
  }
  await step('execute', async () =>
    handleApiError(
      await authenticatedFetch(`${API_V1}/runtime/${id}/execute`, {
        method: 'POST',
        body: JSON.stringify({ payload: { input: 'Hello, Wörld! 😀' } })
      })
    )
  );
  return id;
};

const driveErrors = async (id) => {
  await step('wrong login', async () =>
    handleApiError(await sendJson('/auth/login', { username: user.username, password: 'wrong one' }))
  );
  await step('foreign agent', async () =>
    handleApiError(await authenticatedFetch(`${API_V1}/agents/${foreignAgentId}`))
  );
  await step('wrong file', async () => uploadArtifact(id, await fetchFile('agent.zip')));
  await step('too large', async () =>
    uploadArtifact(id, new File([new Uint8Array(harness.tooManyBytes)], 'big.tar.gz'))
  );
};

const main = async () => {
  await driveErrors(await driveMainJob());
  await fetch('/seen', { method: 'POST', body: JSON.stringify(seen) });
};

main();
