const API_BASE_URL = process.env.REACT_APP_API_URL || 'http://localhost:8000';
const API_V1 = `${API_BASE_URL}/api/v1`;

// Login
const login = async (username, password) => {
  const response = await fetch(`${API_V1}/auth/login`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify({ username, password })
  });
  const data = await response.json();
  // Store token: localStorage.setItem('token', data.access_token);
  return data;
};

// Authenticated requests
const authenticatedFetch = async (url, options = {}) => {
  const token = localStorage.getItem('token');
  return fetch(url, {
    ...options,
    headers: {
      ...options.headers,
      'Authorization': `Bearer ${token}`,
      'Content-Type': 'application/json'
    }
  });
};

// List agents
const listAgents = async () => {
  const response = await authenticatedFetch(`${API_V1}/agents`);
  return response.json();
};

// Create agent
const createAgent = async (name, description) => {
  const response = await authenticatedFetch(`${API_V1}/agents`, {
    method: 'POST',
    body: JSON.stringify({ name, description })
  });
  return response.json();
};

// Upload artifact
const uploadArtifact = async (agentId, file) => {
  const formData = new FormData();
  formData.append('file', file);
  
  const token = localStorage.getItem('token');
  const response = await fetch(`${API_V1}/uploads/agent/${agentId}`, {
    method: 'POST',
    headers: { 'Authorization': `Bearer ${token}` },
    body: formData
  });
  return response.json();
};

const pollAgentStatus = async (agentId, onUpdate) => {
  const interval = setInterval(async () => {
    const agent = await getAgent(agentId);
    onUpdate(agent);
    
    // Stop polling when build is complete
    if (['ready', 'failed'].includes(agent.status)) {
      clearInterval(interval);
    }
  }, 2000); // Poll every 2 seconds
};

const handleApiError = async (response) => {
  if (!response.ok) {
    const error = await response.json().catch(() => ({ detail: 'Unknown error' }));
    throw new Error(error.detail || `HTTP ${response.status}`);
  }
  return response.json();
};
