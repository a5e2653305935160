// The API docs page at /docs: Swagger UI over this server's own /openapi.json.
//
// It works offline and under `script-src 'self'; style-src 'self'; img-src 'self' data:;
// connect-src 'self'`: nothing here or in docs.html may be inline or come from another host.
"use strict";

// The sheet styles `html.dark-mode`; without Swagger UI's top bar nobody else sets it.
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const followColorScheme = () =>
  document.documentElement.classList.toggle("dark-mode", dark.matches);
followColorScheme();
dark.addEventListener("change", followColorScheme);

SwaggerUIBundle({
  dom_id: "#swagger-ui",
  url: "/openapi.json",
  presets: [SwaggerUIBundle.presets.apis],
  validatorUrl: null, // the badge would send this server's address to validator.swagger.io
  deepLinking: true,
  persistAuthorization: true, // in this browser's localStorage, until "Logout" in the dialog
  tryItOutEnabled: true,
  displayRequestDuration: true,
  docExpansion: "list",
  defaultModelsExpandDepth: 0, // the models' heading only: the operations are what is looked for
});
