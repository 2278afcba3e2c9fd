"""PPO and its critic-free relatives: rollouts, advantages, and the clipped objective.

Reading order: `stage`, `prompts`, `rollout`, `batch`, `experience`, `advantages`, `objective`, `actor_critic`, `critic`,
`on_policy`; then what a recipe may add: `watch`, `held_out`, `mix_in`, `served_policy`.
"""
