/*!
 * clickmill's browser tracker. `t.min.js` beside it is this file through terser
 * and is what the collector serves at /t.js; a test holds the two together.
 * How to use it: docs/tracker.md.
 *
 * What it guarantees
 * - An event keeps its event_id over every retry, so the tables hold it once.
 * - An event leaves the queue when the collector has answered 200 (it is on the
 *   collector's disk then), or 400 or 413 (sending it again cannot help), not
 *   before. What waits is kept in localStorage and sent by the next page.
 * - It never throws into the page: without storage, cookies or a network it
 *   works with less.
 *
 * Its limits are the constants below; over MAX_QUEUE the oldest events go.
 */
(function (window, document, navigator) {
  'use strict';

  /** Events in a request. */
  var MAX_BATCH = 20;
  /** Characters of a request, 3 bytes each at most: browsers refuse over 64 KiB at unload. */
  var MAX_CHARS = 2e4;
  /** Events that wait, in memory and in storage. */
  var MAX_QUEUE = 200;
  /** Events older than this are not worth sending: the collector would not believe their time. */
  var MAX_AGE = 7 * 864e5;
  /** How long the first event of a request waits for others. */
  var BATCH_WAIT = 500;
  /** The first wait after a failure; it doubles up to RETRY_MAX. */
  var RETRY_MIN = 1e3;
  var RETRY_MAX = 6e4;
  /** The longest Retry-After that is obeyed. */
  var RETRY_AFTER_MAX = 3e5;
  /** Another page may be sending what is younger than this. */
  var ADOPT_AGE = 1e4;
  /** A session ends after 30 minutes without an event. */
  var SESSION_GAP = 18e5;
  /** Browsers keep no cookie for longer than 400 days. */
  var COOKIE_SECONDS = 395 * 86400;
  var COOKIE = '_cm';
  var STORE = '_cm.q';
  /** What goes to columns of an event by its own name; all else to `properties`. */
  var COLUMNS = /^(order_id|checkout_id|cart_id|currency|revenue|total|tax|shipping|discount|coupon|search_query|list_id|promotion_id|items|utm_(source|medium|campaign|term|content))$/;

  var script = document.currentScript || {};
  var options = script.dataset || {};
  var url = (options.url || (script.src || '').replace(/\/t\.js.*/, '')) +
    '/clickmill/v1/events?key=' + encodeURIComponent(options.key);

  var privacy = options.dnt != 'ignore' &&
    (navigator.globalPrivacyControl || navigator.doNotTrack == 1 || window.doNotTrack == 1);
  /** undefined: not asked yet. */
  var granted = options.consent == 'wait' ? undefined : true;
  var consent;
  var user;
  var visitor;
  var session;
  var lastSeen = 0;
  var page;
  var referrer = document.referrer;

  /** This page's events that are not answered yet, oldest first. */
  var queue = [];
  /** Event ids that the request in flight carries. */
  var inFlight;
  var timer;
  var failures = 0;
  var closed;
  /** The page is left: everything is with the browser. */
  var left;

  // Storage. Anything here may be forbidden, full or absent.

  function identified() {
    return granted && !privacy;
  }

  function stored() {
    try {
      var found = JSON.parse(localStorage.getItem(STORE));
      return Array.isArray(found) ? found : [];
    } catch (e) {
      return [];
    }
  }

  function store(events) {
    try {
      if (events.length) localStorage.setItem(STORE, JSON.stringify(events.slice(-MAX_QUEUE)));
      else localStorage.removeItem(STORE);
    } catch (e) {
      // Full: the newer half may fit.
      if (events[1]) store(events.slice(events.length / 2 + 0.5));
    }
  }

  function cookie() {
    try {
      return (document.cookie.match('(?:^|; )' + COOKIE + '=([^;]*)') || [])[1];
    } catch (e) {
      // A sandboxed frame.
    }
  }

  /** Sets the cookie for the widest domain that the browser allows: shop.example, not www. */
  function setCookie(value, seconds) {
    var labels = location.hostname.split('.');
    var attributes = '; path=/; samesite=lax; max-age=' + seconds + (location.protocol == 'https:' ? '; secure' : '');
    // A host of one label, such as localhost, takes no domain.
    var domains = options.domain ? [options.domain] : labels.map(function (_, from) {
      return labels.slice(from).join('.');
    }).slice(0, -1).reverse().concat('');
    try {
      do {
        var domain = domains.shift();
        document.cookie = COOKIE + '=' + value + attributes + (domain && '; domain=' + domain);
      } while (domains.length && cookie() != (seconds ? value : undefined));
    } catch (e) {
      // A sandboxed frame.
    }
  }

  // Identity

  /** A random UUID (version 4); crypto.randomUUID needs HTTPS. */
  function uuid() {
    return '10000000-1000-4000-8000-100000000000'.replace(/[018]/g, function (c) {
      return (c ^ (crypto.getRandomValues(new Uint8Array(1))[0] & (15 >> (c / 4)))).toString(16);
    });
  }

  /** Continues or starts the visitor and the session. */
  function touch(now) {
    if (!identified()) return;
    var known = (cookie() || '').split('.');
    visitor = (known[2] && known[0]) || visitor || uuid();
    session = (known[2] && known[1]) || session;
    lastSeen = parseInt(known[2], 36) || lastSeen;
    if (!session || now - lastSeen > SESSION_GAP) session = uuid();
    lastSeen = now;
    setCookie(visitor + '.' + session + '.' + now.toString(36), COOKIE_SECONDS);
  }

  function forget() {
    visitor = session = user = undefined;
    setCookie('', 0);
  }

  // Events

  function track(name, data) {
    if (granted === false) return;
    var now = Date.now();
    touch(now);
    var event = {
      event_id: uuid(),
      event_name: name,
      platform: 'web',
      client_ts: new Date(now).toISOString(),
      anonymous_id: visitor,
      client_session_id: session,
      user_id: identified() ? user : undefined,
      consent: consent,
      page_url: here(),
      page_title: document.title,
      referrer_url: referrer || undefined,
      language: navigator.language,
      screen_width: screen.width,
      screen_height: screen.height
    };
    try {
      event.timezone = Intl.DateTimeFormat().resolvedOptions().timeZone;
    } catch (e) {}
    for (var key in data) {
      if (COLUMNS.test(key)) event[key] = data[key];
      else (event.properties = event.properties || {})[key] = data[key];
    }
    queue.push(event);
    queue = queue.slice(-MAX_QUEUE);
    if (identified()) store(stored().concat(event));
    try {
      window.dispatchEvent(new CustomEvent('clickmill', { detail: event }));
    } catch (e) {}
    schedule(queue.length < MAX_BATCH ? BATCH_WAIT : 0);
    return event.event_id;
  }

  /** The page's URL; fragments name pages only where the site says so, and may hold secrets. */
  function here() {
    return options.spa == 'hash' ? location.href : location.href.split('#')[0];
  }

  function pageView(data) {
    if (page && page != here()) referrer = page;
    page = here();
    return track('page_view', data);
  }

  /** A single-page application went on. */
  function moved() {
    if (page && page != here()) run('page');
  }

  // Sending

  function idsOf(events) {
    return events.map(function (event) { return event.event_id; });
  }

  function without(events, ids) {
    return events.filter(function (event) { return ids.indexOf(event.event_id) < 0; });
  }

  /** What there is to send: what other pages could not, if they had their time for it, and our own. */
  function pending() {
    var now = Date.now();
    var others = identified() ? stored().filter(function (event) {
      var age = now - Date.parse(event.client_ts);
      return age > ADOPT_AGE && age < MAX_AGE;
    }) : [];
    return without(others, idsOf(queue)).concat(queue);
  }

  function done(ids) {
    queue = without(queue, ids);
    store(without(stored(), ids).filter(function (event) {
      return Date.now() - Date.parse(event.client_ts) < MAX_AGE;
    }));
  }

  /** The next request: at least one event, and no more than the limits. */
  function batch(events) {
    var chars = 0;
    for (var count = 0; count < events.length && count < MAX_BATCH; count++) {
      chars += JSON.stringify(events[count]).length;
      if (count && chars > MAX_CHARS) break;
    }
    events = events.slice(0, count);
    return {
      ids: idsOf(events),
      body: JSON.stringify({ sent_ts: new Date().toISOString(), events: events })
    };
  }

  /** text/plain, which a string is, needs no preflight. keepalive lets it end after the page. */
  function post(body) {
    return fetch(url, {
      method: 'POST', body: body, keepalive: body.length < MAX_CHARS + 1e3,
      credentials: identified() ? 'include' : 'omit'
    });
  }

  /** Sends after `wait` at the latest; at once only where nothing has failed. */
  function schedule(wait) {
    if (granted && !inFlight && (!timer || (!wait && !failures))) {
      clearTimeout(timer);
      timer = setTimeout(send, wait);
    }
  }

  function send() {
    clearTimeout(timer);
    timer = 0;
    var events = granted && !inFlight && !closed ? pending() : [];
    if (!events.length) return;
    var next = batch(events);
    inFlight = next.ids;
    function ended(status, retryAfter) {
      inFlight = 0;
      if (status == 200 || status == 400 || status == 413) {
        failures = 0;
        done(next.ids);
        if (pending().length) schedule(BATCH_WAIT);
      } else if (status > 400 && status < 500 && status != 408 && status != 429) {
        // A wrong key, origin or URL: nothing of this page would get through.
        closed = 1;
      } else {
        var wait = Math.min(RETRY_MIN * Math.pow(2, failures++), RETRY_MAX) * (0.5 + Math.random() / 2);
        schedule(Math.max(wait, Math.min(1e3 * retryAfter || 0, RETRY_AFTER_MAX)));
      }
    }
    post(next.body).then(function (answer) {
      ended(answer.status, answer.headers.get('retry-after'));
    }, function () {
      ended();
    });
  }

  /**
   * The page goes: what it has is handed to the browser. There will be no
   * answer, so it stays stored, and a later page sends it once more. A beacon
   * always carries cookies; without consent to them it is not used.
   */
  function leave() {
    left = 1;
    var rest = granted && !closed ? without(queue, inFlight || []) : [];
    while (rest.length) {
      var next = batch(rest);
      if (identified() && navigator.sendBeacon) {
        if (!navigator.sendBeacon(url, next.body)) break;
      } else post(next.body).catch(function () {});
      rest = rest.slice(next.ids.length);
    }
  }

  // Commands

  var commands = {
    page: pageView,
    track: track,
    identify: function (id, traits) {
      user = id == null ? undefined : '' + id;
      return track('identify', traits);
    },
    consent: function (categories) {
      consent = categories;
      var before = granted;
      granted = !categories || categories.analytics !== false;
      if (!granted) {
        queue = [];
        store([]);
        forget();
      } else if (!before) {
        queue.forEach(function (event) {
          touch(Date.now());
          event.consent = consent;
          event.anonymous_id = visitor;
          event.client_session_id = session;
        });
        if (identified()) store(stored().concat(queue));
        schedule(0);
      }
    },
    reset: forget,
    flush: function () {
      schedule(0);
    },
    ready: function (then) {
      then({ anonymous_id: visitor, client_session_id: session });
    }
  };

  function run(name, first, second) {
    try {
      return Object.prototype.hasOwnProperty.call(commands, name) ? commands[name](first, second) : track(name, first);
    } catch (e) {
      if (window.console) console.error('clickmill:', e);
    }
  }

  function start() {
    var waiting = (window.clickmill || {}).q || [];
    window.clickmill = run;
    run.loaded = 1;
    if (options.auto != 'off') run('page');
    for (var i = 0; i < waiting.length; i++) run.apply(0, waiting[i]);
    // What the page before this one left behind is old enough then.
    setTimeout(send, ADOPT_AGE + BATCH_WAIT);
  }

  if ((window.clickmill || {}).loaded) return;
  if (options.spa != 'off' && history.pushState) {
    ['pushState', 'replaceState'].forEach(function (name) {
      var original = history[name];
      history[name] = function () {
        var result = original.apply(this, arguments);
        moved();
        return result;
      };
    });
    window.addEventListener('popstate', moved);
    window.addEventListener('hashchange', moved);
  }
  document.addEventListener('visibilitychange', function () {
    // On a phone nothing may come after this. Unlike a beacon it has an answer.
    if (document.visibilityState == 'hidden' && !left && !failures) send();
  });
  window.addEventListener('pagehide', leave);
  window.addEventListener('online', function () {
    failures = 0;
    schedule(0);
  });
  window.addEventListener('pageshow', function (event) {
    left = 0;
    // Back from the browser's cache: a page seen again.
    if (event.persisted && options.auto != 'off') run('page');
  });
  if (document.prerendering) document.addEventListener('prerenderingchange', start, { once: true });
  else start();
})(window, document, navigator);
