// A Worker that does nothing: what workerd itself costs, to take away from what ours does. Runs in workerd.
export default {
  fetch: () => new Response('ready'),
}
