// What the server has told, by parts, and who wants to know. It comes by server-sent events, also after a break.

const PARTS = ["daemon", "me", "status", "offers", "friends", "ports", "invites"];
const KEPT = { samples: 300, events: 500 };
const TOGETHER = 30; // ms in which messages come that belong together

export const state = {
  server: "asking", // "there", "gone", "strange": it runs, and does not know us any more
  daemon: { state: "asking", message: "" },
  me: null,
  status: null,
  offers: { offers: [] },
  friends: { friends: [] },
  ports: { ports: [] },
  invites: { invites: [] },
  samples: [],
  events: [],
};

const listeners = [];
const changed = new Set();

// Have `listener(changed)` called, with the names of parts, after they have changed; once for all that came together.
export function onChange(listener) {
  listeners.push(listener);
}

export function tell(part) {
  if (changed.size === 0) {
    setTimeout(() => {
      const parts = new Set(changed);
      changed.clear();
      for (const listener of listeners) listener(parts);
    }, TOGETHER);
  }
  changed.add(part);
}

function set(part, content) {
  state[part] = content;
  tell(part);
}

export function follow() {
  const source = new EventSource("live");
  source.onopen = () => {
    // A new stream tells all from the start.
    state.samples = [];
    state.events = [];
    set("server", "there");
  };
  source.onerror = () => {
    set("server", "gone");
    // Closed: an answer that is no stream. The server is another one, with another token, or is too busy.
    if (source.readyState === EventSource.CLOSED) {
      set("server", "strange");
      setTimeout(follow, 5000);
    }
  };
  for (const part of PARTS) {
    source.addEventListener(part, (event) => set(part, JSON.parse(event.data)));
  }
  for (const [part, most] of Object.entries(KEPT)) {
    source.addEventListener(part, (event) => set(part, [...state[part], ...JSON.parse(event.data)].slice(-most)));
  }
}
